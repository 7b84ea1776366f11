"""SQL expressions that several queries need."""

from collections.abc import Iterable

from sqlalchemy import ARRAY, ColumnElement, Integer, any_, literal
from sqlalchemy.orm import InstrumentedAttribute


def among(column: InstrumentedAttribute[int], numbers: Iterable[int]) -> ColumnElement[bool]:
    """Whether `column` is one of `numbers`: as `IN`, with one array as the parameter in place of thousands."""
    return column == any_(literal(list(numbers), ARRAY(Integer)))
