"""Which labels a person may see.

On lists, in searches, maps, exports and counts everybody sees the same labels: `submitted` ones that are not withheld.
A label in a blind set is withheld until the set is closed. Until then it is seen on its feature by its author, by
whoever has submitted their own of the feature in that set, and by those from whom nothing is hidden.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Boolean, ColumnElement, Integer, and_, bindparam, exists, or_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from app.queries.sql.expressions import submitted
from app.tables import Activity, Comment, Label, LabelDecision, LabelSet


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


public_decision: ColumnElement[bool] = or_(~LabelSet.blind, LabelSet.closed_at.is_not(None))
"""True for a decision that everybody sees, joined with its label set."""


def visible_of(made: type[Comment] | type[LabelDecision] | type[Activity]) -> ColumnElement[bool]:
    """True for a row about a feature in a set that a `Reader` may see; its `parameters` go with it.

    In a blind set that is not closed yet it is seen by whoever made it or has submitted their own label.
    """
    own = aliased(Label)
    has_own = (
        exists()
        .where(
            own.label_set_id == made.label_set_id,
            own.feature == made.feature,
            own.person_id == bindparam("reader", type_=Integer),
            own.status == "submitted",
        )
        .correlate(made)
    )
    withholds = (
        exists().where(LabelSet.id == made.label_set_id, LabelSet.blind, LabelSet.closed_at.is_(None)).correlate(made)
    )
    mine = made.person_id == bindparam("reader", type_=Integer)
    return or_(~withholds, mine, bindparam("all", type_=Boolean), has_own)


_draft = aliased(Label)
visible_activity: ColumnElement[bool] = and_(
    visible_of(Activity),
    or_(
        Activity.person_id == bindparam("reader", type_=Integer),
        ~Activity.act.startswith("label "),
        ~exists().where(_draft.id == Activity.subject, _draft.status == "draft").correlate(Activity),
    ),
)
"""True for an act that a `Reader` may know of; its `parameters` go with it. What others do to drafts is not seen."""


async def may_see(session: AsyncSession, reader: Reader, label_set_id: int, feature: int) -> bool:
    """True if a blind set that is not closed hides nothing of this feature from `reader`."""
    if reader.sees_all:
        return True
    found = await session.scalar(_HAS_SUBMITTED, {"set": label_set_id, "feature": feature, "reader": reader.person_id})
    return found is not None


_HAS_SUBMITTED = select(Label.id).where(
    Label.label_set_id == bindparam("set"),
    Label.feature == bindparam("feature"),
    Label.person_id == bindparam("reader", type_=Integer),
    Label.status == "submitted",
)
