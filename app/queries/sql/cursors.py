"""Cursors of keyset paging: where the page before ended, as an opaque text for URLs."""

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

    `total` counts the rows of all pages: the first page counts them, and the others are told.
    """

    sort: str
    descending: bool
    value: float
    number: int
    total: int

    def encode(self) -> str:
        """This cursor for a URL."""
        return base64.urlsafe_b64encode(json.dumps(asdict(self), separators=(",", ":")).encode()).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str, *, sort: str, descending: bool) -> "Cursor":
        """The cursor that `encode` wrote.

        Raises:
            Unprocessable: it is none, or one of another order.
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
