"""Ratings of the same features by several people of a label set, their labels side by side, and votes.

Everything is as its reader may see it: in a blind set a labeller finds the features that they have labelled. Machines'
suggestions and drafts never count.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, bindparam, delete, exists, func, or_, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from app.queries.sql.expressions import in_array
from app.queries.sql.visibility import Reader, visible_label
from app.tables import Guideline, Label, LabelRevision, LabelVote


@dataclass(frozen=True, slots=True)
class RatedLabel:
    """Rating in a submitted label: its categories and scores, without its explanation."""

    feature: int
    person_id: int
    author: str
    categories: tuple[str, ...]
    interpretability: int | None


@dataclass(frozen=True, slots=True)
class SubmittedLabel:
    """A submitted label beside others of its feature; `up` and `down` are the votes for its explanation."""

    id: int
    feature: int
    person_id: int
    author: str
    version: int
    explanation: str
    categories: tuple[str, ...]
    interpretability: int | None
    confidence: int | None
    cant_tell: bool
    updated_at: datetime
    up: int = 0
    down: int = 0
    own_vote: int = 0


async def changed_after_others(session: AsyncSession, set_id: int) -> int:
    """Return how many submitted labels of a set say something else than when their author first submitted them.

    Only those count that were changed while another's label of the feature was there to be read.
    """
    return await session.scalar(_CHANGED, {"set": set_id}) or 0


_said = ("explanation", "categories", "interpretability", "cant_tell")
_first, _later, _others = aliased(LabelRevision), aliased(LabelRevision), aliased(LabelRevision)
_theirs = aliased(Label)
_CHANGED = select(func.count()).where(
    Label.label_set_id == bindparam("set"),
    Label.status == "submitted",
    exists()
    .where(_first.label_id == Label.id, _first.status == "submitted")
    .where(_later.label_id == Label.id, _later.status == "submitted", _later.version > _first.version)
    .where(or_(*(getattr(_later, name).is_distinct_from(getattr(_first, name)) for name in _said)))
    .where(_others.label_id == _theirs.id, _others.status == "submitted", _others.changed_at < _later.changed_at)
    .where(_theirs.label_set_id == Label.label_set_id, _theirs.feature == Label.feature, _theirs.id != Label.id)
    .correlate(Label),
)


async def list_ratings(session: AsyncSession, set_id: int, *, reader: Reader) -> list[RatedLabel]:
    """Return the ratings of features that two people or more labelled, without "can't tell", by feature and person."""
    rows = await session.execute(_RATINGS, {"set": set_id, **reader.parameters})
    return [RatedLabel(*row[:3], tuple(row.categories), row.interpretability) for row in rows]


_other = aliased(Label)
_SUBMITTED = Label.label_set_id == bindparam("set"), Label.status == "submitted"


def _labelled_twice(*conditions: ColumnElement[bool]) -> Select[int]:
    """Return the features of the set that two people or more labelled."""
    submitted = _other.label_set_id == bindparam("set"), _other.status == "submitted"
    return select(_other.feature).where(*submitted, *conditions).group_by(_other.feature).having(func.count() > 1)


_RATINGS = (
    select(Label.feature, Label.person_id, Label.author, Label.categories, Label.interpretability)
    .where(*_SUBMITTED, ~Label.cant_tell, visible_label, Label.feature.in_(_labelled_twice(~_other.cant_tell)))
    .order_by(Label.feature, Label.person_id)
)


async def list_shared_labels(session: AsyncSession, set_id: int, *, reader: Reader) -> list[SubmittedLabel]:
    """Return all labels of the features that two people or more labelled, by feature and label, without votes."""
    return [_view(row) for row in await session.execute(_SHARED, {"set": set_id, **reader.parameters})]


async def list_feature_labels(
    session: AsyncSession, set_id: int, feature: int, *, reader: Reader
) -> list[SubmittedLabel]:
    """Return the labels of one feature in a set with their votes, oldest first."""
    rows = (await session.execute(_OF_FEATURE, {"set": set_id, "feature": feature, **reader.parameters})).all()
    votes = await count_votes(session, [row.id for row in rows], reader=reader)
    return [_view(row, votes.get(row.id, (0, 0, 0))) for row in rows]


_LABELS = (
    select(*(getattr(Label, name) for name in SubmittedLabel.__dataclass_fields__ if hasattr(Label, name)))
    .where(*_SUBMITTED, visible_label)
    .order_by(Label.feature, Label.id)
)
_SHARED = _LABELS.where(Label.feature.in_(_labelled_twice()))
_OF_FEATURE = _LABELS.where(Label.feature == bindparam("feature"))


def _view(row: Row[*tuple[Any, ...]], votes: tuple[int, int, int] = (0, 0, 0)) -> SubmittedLabel:
    up, down, own = votes
    return SubmittedLabel(**{**row._mapping, "categories": tuple(row.categories)}, up=up, down=down, own_vote=own)


async def list_explanations(session: AsyncSession, set_id: int, *, reader: Reader) -> list[tuple[int, str]]:
    """Return the explanations of a set with their features; a label may have categories alone."""
    rows = await session.execute(_EXPLANATIONS, {"set": set_id, **reader.parameters})
    return [(row.feature, row.explanation) for row in rows]


_EXPLANATIONS = (
    select(Label.feature, Label.explanation)
    .where(*_SUBMITTED, ~Label.cant_tell, Label.explanation != "", visible_label)
    .order_by(Label.feature, Label.id)
)


async def guideline_categories(session: AsyncSession, set_id: int) -> tuple[str, ...]:
    """Return the categories that the newest guideline of a set offers, none where it has no guideline."""
    newest = select(Guideline.categories).where(Guideline.set_id == set_id).order_by(Guideline.version.desc()).limit(1)
    return tuple(await session.scalar(newest) or ())


async def count_votes(
    session: AsyncSession, labels: Sequence[int], *, reader: Reader
) -> Mapping[int, tuple[int, int, int]]:
    """Return the votes for and against each label, and the reader's own: 1, -1 or 0."""
    if not labels:
        return {}
    up = func.count().filter(LabelVote.value > 0)
    own = func.coalesce(func.sum(LabelVote.value).filter(LabelVote.person_id == (reader.person_id or 0)), 0)
    counted = select(LabelVote.label_id, up.label("up"), func.count().label("all"), own.label("own"))
    rows = await session.execute(counted.where(in_array(LabelVote.label_id, labels)).group_by(LabelVote.label_id))
    return {row.label_id: (row.up, row.all - row.up, int(row.own)) for row in rows}


async def put_vote(session: AsyncSession, label_id: int, person_id: int, value: int) -> None:
    """Write what a person thinks of a label's explanation: 1, -1, or 0 to take it back."""
    if value == 0:
        own = LabelVote.label_id == label_id, LabelVote.person_id == person_id
        await session.execute(delete(LabelVote).where(*own))
        return
    vote = insert(LabelVote).values(label_id=label_id, person_id=person_id, value=value)
    await session.execute(
        vote.on_conflict_do_update(
            index_elements=[LabelVote.label_id, LabelVote.person_id], set_={"value": value, "voted_at": func.now()}
        )
    )
