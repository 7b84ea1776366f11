"""Cursors of keyset paging: the end of the previous page as opaque text for URLs."""

import base64
import binascii
import json
import math
from dataclasses import asdict, dataclass

from app.errors import Unprocessable
from app.queries.sql.pg_safe import MAX_INTEGER


@dataclass(frozen=True, slots=True)
class Cursor:
    """The last row of a page: its sort value and, as a tie-breaker, its number. It holds for one order only.

    `total` counts the rows of all pages: the first page counts them, and the cursor passes the count on.
    """

    sort: str
    descending: bool
    value: float
    number: int
    total: int

    def encode(self) -> str:
        """Return the cursor as text for a URL."""
        return base64.urlsafe_b64encode(json.dumps(asdict(self), separators=(",", ":")).encode()).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str, *, sort: str, descending: bool) -> "Cursor":
        """Return the cursor that `encode` wrote.

        Raises:
            Unprocessable: the text is not a valid cursor, or the cursor is of another order.
        """
        try:
            cursor = cls(**json.loads(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)))
            valid = math.isfinite(cursor.value) and all(
                0 <= number <= MAX_INTEGER and number == int(number) for number in (cursor.number, cursor.total)
            )
        except (binascii.Error, ValueError, TypeError, OverflowError):
            valid = False
        if not valid:
            raise Unprocessable("This cursor is not one that a page gave: start again without it.")
        if (cursor.sort, cursor.descending) != (sort, descending):
            raise Unprocessable("This cursor belongs to another order: start again without it.")
        return cursor
