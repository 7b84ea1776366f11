"""Pages of rows: a query asks for one row more than a page has, which tells if another page follows."""

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def one_page(rows: Sequence[T], limit: int) -> tuple[list[T], bool]:
    """Return the first `limit` of up to `limit + 1` rows, and whether there are more."""
    return list(rows[:limit]), len(rows) > limit
