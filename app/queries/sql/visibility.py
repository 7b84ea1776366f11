"""Which labels a person may see.

On lists, in searches, maps, exports and counts everybody sees the same labels: `submitted` ones that are not withheld.
A label in a blind set is withheld until the set is closed. Until then it is seen on its feature by its author, by
whoever has submitted their own of the feature in that set, and by those from whom nothing is hidden.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Boolean, ColumnElement, Integer, and_, bindparam, exists, or_
from sqlalchemy.orm import aliased

from app.queries.sql.expressions import submitted
from app.tables import Label


@dataclass(frozen=True, slots=True)
class Reader:
    """Who reads: a person's id, None for one who has made nothing, and whether blind sets hide nothing from them."""

    person_id: int | None = None
    sees_all: bool = False

    @property
    def parameters(self) -> dict[str, Any]:
        """Return the parameters of `visible_label`."""
        return {"reader": self.person_id, "all": self.sees_all}


NOBODY = Reader()

_own = aliased(Label)
_has_own = (
    exists()
    .where(
        _own.label_set_id == Label.label_set_id,
        _own.feature == Label.feature,
        _own.person_id == bindparam("reader", type_=Integer),
        _own.status == "submitted",
    )
    .correlate(Label)
)

visible_label: ColumnElement[bool] = or_(
    submitted,
    and_(Label.person_id == bindparam("reader", type_=Integer), Label.status != "discarded"),
    and_(Label.status == "submitted", or_(bindparam("all", type_=Boolean), _has_own)),
)
"""True for a label that a `Reader` may see; its `parameters` go with it."""
