"""Decisions between labels of a feature: each is a row of its own beside the labels, and the newest one holds.

In a blind set a decision is hidden as labels are, from whoever has not labelled its feature yet.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Boolean, ColumnElement, Integer, Select, bindparam, exists, or_, select
from sqlalchemy.dialects.postgresql import distinct_on, insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.queries.sql.expressions import newest_decision
from app.queries.sql.visibility import Reader, public_decision
from app.tables import Label, LabelDecision, LabelSet, Person


@dataclass(frozen=True, slots=True)
class DecisionText:
    """Content of a decision: what a reviewer writes."""

    explanation: str
    categories: tuple[str, ...] = ()
    interpretability: int | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class DecisionView:
    """A decision; `labels` are the versions of the labels that it was made between, by their ids."""

    id: int
    label_set_id: int
    label_set: str
    feature: int
    person_id: int
    author: str
    explanation: str
    categories: tuple[str, ...]
    interpretability: int | None
    note: str
    labels: Mapping[int, int]
    guideline_version: int | None
    index_id: int | None
    decided_at: datetime

    @property
    def text(self) -> DecisionText:
        """Return its content."""
        return DecisionText(self.explanation, self.categories, self.interpretability, self.note)


async def insert_decision(
    session: AsyncSession,
    *,
    set_id: int,
    feature: int,
    person_id: int,
    text: DecisionText,
    labels: Mapping[int, int],
    guideline_version: int | None,
    index_id: int | None,
) -> DecisionView:
    """Write a decision."""
    row = insert(LabelDecision).values(
        label_set_id=set_id,
        feature=feature,
        person_id=person_id,
        explanation=text.explanation,
        categories=list(text.categories),
        interpretability=text.interpretability,
        note=text.note,
        labels=[[label, version] for label, version in labels.items()],
        guideline_version=guideline_version,
        index_id=index_id,
    )
    made = await session.scalar(row.returning(LabelDecision.id))
    found = await session.execute(_DECISIONS.where(LabelDecision.id == made), Reader(sees_all=True).parameters)
    return _view(*found.one())


_has_own = exists().where(
    Label.label_set_id == LabelDecision.label_set_id,
    Label.feature == LabelDecision.feature,
    Label.person_id == bindparam("reader", type_=Integer),
    Label.status == "submitted",
)
_DECISIONS = (
    select(LabelDecision, LabelSet.name, Person.name)
    .join(LabelSet, LabelSet.id == LabelDecision.label_set_id)
    .join(Person, Person.id == LabelDecision.person_id)
    .where(or_(public_decision, bindparam("all", type_=Boolean), _has_own))
)


async def list_decisions(
    session: AsyncSession,
    set_id: int,
    *,
    reader: Reader,
    feature: int | None = None,
    after: int = 0,
    newest_first: bool = False,
    limit: int,
) -> list[DecisionView]:
    """Return decisions of a set, or of one of its features, that follow `after`, in the order they were written.

    With `newest_first` the one that holds comes first.
    """
    query = _DECISIONS.where(LabelDecision.label_set_id == set_id, LabelDecision.id > after)
    if feature is not None:
        query = query.where(LabelDecision.feature == feature)
    query = query.order_by(*(newest_decision if newest_first else (LabelDecision.id,))).limit(limit)
    return [_view(*row) for row in await session.execute(query, reader.parameters)]


async def current_decisions(
    session: AsyncSession, set_id: int, features: Sequence[int] | None = None, *, reader: Reader
) -> dict[int, DecisionView]:
    """Return the decisions that hold in a set, by feature: all, or those about some features."""
    query = _newest(LabelDecision.label_set_id == set_id)
    if features is not None:
        query = query.where(LabelDecision.feature.in_(features))
    views = [_view(*row) for row in await session.execute(query, reader.parameters)]
    return {view.feature: view for view in views}


async def decisions_of_feature(
    session: AsyncSession, sae_id: int, feature: int, *, reader: Reader
) -> list[DecisionView]:
    """Return the decisions that hold about a feature of an SAE, one per label set, the newest first."""
    of_feature = _newest(LabelSet.sae_id == bindparam("sae"), LabelDecision.feature == bindparam("feature"))
    parameters = {"sae": sae_id, "feature": feature, **reader.parameters}
    views = [_view(*row) for row in await session.execute(of_feature, parameters)]
    return sorted(views, key=lambda view: (view.decided_at, view.id), reverse=True)


def _newest(*conditions: ColumnElement[bool]) -> Select[LabelDecision, str, str]:
    one_each = LabelDecision.label_set_id, LabelDecision.feature
    return _DECISIONS.where(*conditions).ext(distinct_on(*one_each)).order_by(*one_each, *newest_decision)


def _view(row: LabelDecision, label_set: str, author: str) -> DecisionView:
    return DecisionView(
        id=row.id,
        label_set_id=row.label_set_id,
        label_set=label_set,
        feature=row.feature,
        person_id=row.person_id,
        author=author,
        explanation=row.explanation,
        categories=tuple(row.categories),
        interpretability=row.interpretability,
        note=row.note,
        labels={int(label): int(version) for label, version in row.labels},
        guideline_version=row.guideline_version,
        index_id=row.index_id,
        decided_at=row.decided_at,
    )
