"""Cursors of keyset paging: the end of the previous page as opaque text for URLs."""

import base64
import binascii
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from app.errors import Unprocessable
from app.queries.sql.pg_safe import MAX_INTEGER

Count = Annotated[int, Field(ge=0, le=MAX_INTEGER)]


@dataclass(frozen=True, slots=True)
class Cursor:
    """The last row of a page: its sort value and, as a tie-breaker, its number. It holds for one order only.

    `total` counts the rows of all pages: the first page counts them, and the cursor passes the count on.
    """

    sort: str
    descending: bool
    value: Annotated[float, Field(allow_inf_nan=False)]
    number: Count
    total: Count

    def encode(self) -> str:
        """Return the cursor as text for a URL."""
        return base64.urlsafe_b64encode(_JSON.dump_json(self)).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str, *, sort: str, descending: bool) -> "Cursor":
        """Return the cursor that `encode` wrote.

        Raises:
            Unprocessable: the text is not a valid cursor, or the cursor is of another order.
        """
        try:
            written = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
            cursor = _JSON.validate_json(written, strict=True)
        except (binascii.Error, ValidationError, ValueError) as error:
            raise Unprocessable("This cursor is not one that a page gave: start again without it.") from error
        if (cursor.sort, cursor.descending) != (sort, descending):
            raise Unprocessable("This cursor belongs to another order: start again without it.")
        return cursor


_JSON = TypeAdapter(Cursor)
