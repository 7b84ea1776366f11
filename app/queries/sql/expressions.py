"""SQL expressions that several queries need.

Queries that every page runs are built once, with named parameters: building one takes half as long as running it.
"""

from collections.abc import Iterable

from sqlalchemy import ARRAY, ColumnElement, Integer, and_, any_, bindparam, literal, literal_column
from sqlalchemy.sql.expression import SQLColumnExpression

from app.tables import Label, LabelDecision

submitted: ColumnElement[bool] = and_(Label.status == literal_column("'submitted'"), ~Label.withheld)
"""True for labels that everybody sees. Literal, because the planner must see that the partial index covers them."""


newest_decision = LabelDecision.decided_at.desc(), LabelDecision.id.desc()
"""Order in which the first decision of a feature is the one that holds; ids say less, because files bring old ones."""


def in_array(column: SQLColumnExpression[int], numbers: Iterable[int] | str) -> ColumnElement[bool]:
    """True if `column` is one of `numbers`: like `IN`, with one array as the parameter instead of thousands of numbers.

    Instead of the numbers, pass the name of a parameter that is a list of them.
    """
    if isinstance(numbers, str):
        return column == any_(bindparam(numbers, type_=ARRAY(Integer)))
    return column == any_(literal(list(numbers), ARRAY(Integer)))
