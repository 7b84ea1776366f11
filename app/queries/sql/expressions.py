"""SQL expressions that several queries need.

What every page asks is built once, with named parameters: building a query takes as long as half of running it.
"""

from collections.abc import Iterable

from sqlalchemy import ARRAY, ColumnElement, Integer, any_, bindparam, literal, literal_column
from sqlalchemy.orm import InstrumentedAttribute

from app.tables import Label

submitted: ColumnElement[bool] = Label.status == literal_column("'submitted'")
"""Whether a label counts. Literal, because the planner must see that the partial index has it."""


def in_array(column: InstrumentedAttribute[int], numbers: Iterable[int] | str) -> ColumnElement[bool]:
    """Whether `column` is one of `numbers`: as `IN`, with one array as the parameter in place of thousands.

    In place of the numbers, it may be the name of a parameter that is a list of them.
    """
    if isinstance(numbers, str):
        return column == any_(bindparam(numbers, type_=ARRAY(Integer)))
    return column == any_(literal(list(numbers), ARRAY(Integer)))
