"""Label sets: their rules, the versions of their guidelines, and the features that they are about."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ARRAY, Integer, and_, bindparam, delete, exists, func, literal, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.queries.saes import SaeDetail
from app.queries.sql.expressions import in_array
from app.queries.sql.pg_safe import is_id
from app.tables import (
    Feature,
    FeatureEffect,
    Guideline,
    Label,
    LabelAssignment,
    LabelSet,
    LabelSetFeature,
    Person,
    Sae,
)

DEFAULT = "default"
"""Name of the set of each SAE that takes any feature and has no guideline."""


@dataclass(frozen=True, slots=True)
class LabelSetView:
    """A label set; `guideline` is the newest version's number, None if it has no guideline."""

    id: int
    sae_id: int
    name: str
    needed: int
    blind: bool
    order: str
    scope: Mapping[str, Any]
    created_by: int | None
    created_at: datetime
    closed_at: datetime | None
    guideline: int | None

    @property
    def withholds(self) -> bool:
        """True if its labels are hidden from who has none of their own."""
        return self.blind and self.closed_at is None

    @property
    def takes_any(self) -> bool:
        """True if it is about any feature of its SAE."""
        return not self.scope


@dataclass(frozen=True, slots=True)
class LabelSetSummary:
    """A set with how far it is; `features` is None while it takes any and nobody labels it by the flow."""

    set: LabelSetView
    sae: str
    """Slug of its SAE."""
    features: int | None
    done: int
    """Features with as many submitted labels as the set needs."""
    labels: int
    """Submitted labels."""


@dataclass(frozen=True, slots=True)
class GuidelineView:
    """One version of a guideline, and who wrote it."""

    version: int
    text: str
    categories: tuple[str, ...]
    by: str
    created_at: datetime


_newest = (
    select(func.max(Guideline.version)).where(Guideline.set_id == LabelSet.id).correlate(LabelSet).scalar_subquery()
)
_SETS = select(LabelSet, _newest.label("guideline")).execution_options(populate_existing=True)


async def get_set(session: AsyncSession, set_id: int, *, for_change: bool = False) -> LabelSetView | None:
    """Return a set; with `for_change`, nobody else changes it, or labels in it, until the transaction ends."""
    if not is_id(set_id):
        return None
    query = _SETS.where(LabelSet.id == set_id)
    if for_change:
        query = query.with_for_update(of=LabelSet)
    row = (await session.execute(query)).one_or_none()
    return None if row is None else _view(*row)


async def keep_set(session: AsyncSession, set_id: int) -> LabelSetView | None:
    """Return a set that stays as it is until the transaction ends, so that a label fits its rules.

    Any number of transactions keep it at once.
    """
    query = _SETS.where(LabelSet.id == set_id).with_for_update(of=LabelSet, read=True)
    row = (await session.execute(query)).one_or_none()
    return None if row is None else _view(*row)


async def list_sets(session: AsyncSession, *, sae_id: int | None = None) -> list[LabelSetSummary]:
    """Return all sets, or those of one SAE, newest first; the default ones last."""
    query = _SUMMARIES if sae_id is None else _SUMMARIES.where(LabelSet.sae_id == sae_id)
    rows = await session.execute(query.order_by(LabelSet.name == DEFAULT, LabelSet.id.desc()))
    return [_summary(*row) for row in rows]


async def summarise_set(session: AsyncSession, set_id: int) -> LabelSetSummary | None:
    """Return a set with how far it is."""
    if not is_id(set_id):
        return None
    row = (await session.execute(_SUMMARIES.where(LabelSet.id == set_id))).one_or_none()
    return None if row is None else _summary(*row)


_of_set = select(func.count()).where(LabelSetFeature.set_id == LabelSet.id).correlate(LabelSet).scalar_subquery()
_per_feature = (
    select(Label.label_set_id, Label.feature, func.count().label("labels"))
    .where(Label.status == "submitted")
    .group_by(Label.label_set_id, Label.feature)
    .subquery()
)
_labelled = (
    select(
        func.count().filter(_per_feature.c.labels >= LabelSet.needed).label("done"),
        func.coalesce(func.sum(_per_feature.c.labels), 0).label("labels"),
    )
    .where(_per_feature.c.label_set_id == LabelSet.id)
    .correlate(LabelSet)
    .lateral()
)
_SUMMARIES = (
    select(
        LabelSet, _newest.label("guideline"), Sae.slug, _of_set.label("features"), _labelled.c.done, _labelled.c.labels
    )
    .join(Sae, Sae.id == LabelSet.sae_id)
    .join(_labelled, literal(True))
    .execution_options(populate_existing=True)
)


def _summary(row: LabelSet, guideline: int | None, sae: str, features: int, done: int, labels: int) -> LabelSetSummary:
    view = _view(row, guideline)
    return LabelSetSummary(view, sae, features if features or not view.takes_any else None, done, int(labels))


async def find_set(session: AsyncSession, sae_id: int, name: str) -> LabelSetView | None:
    """Return the set of this name of an SAE."""
    row = (await session.execute(_SETS.where(LabelSet.sae_id == sae_id, LabelSet.name == name))).one_or_none()
    return None if row is None else _view(*row)


async def set_like(session: AsyncSession, sae_id: int, name: str, *, but: int | None = None) -> str | None:
    """Return the name of a set of an SAE, other than `but`, that is `name` apart from case."""
    query = select(LabelSet.name).where(LabelSet.sae_id == sae_id, func.lower(LabelSet.name) == name.lower())
    return await session.scalar(query.where(LabelSet.id != (but or 0)).limit(1))


async def ensure_set(
    session: AsyncSession, sae_id: int, name: str = DEFAULT, *, person_id: int | None = None
) -> LabelSetView:
    """Return the set of this name, which is made if there is none: one that takes any feature."""
    found = await find_set(session, sae_id, name)
    if found is None:
        new = insert(LabelSet).values(sae_id=sae_id, name=name, created_by=person_id)
        await session.execute(new.on_conflict_do_nothing())
        found = await find_set(session, sae_id, name)
    assert found is not None
    return found


async def insert_set(
    session: AsyncSession,
    sae_id: int,
    *,
    name: str,
    needed: int,
    blind: bool,
    order: str,
    scope: Mapping[str, Any],
    person_id: int | None,
) -> LabelSetView | None:
    """Make a set; None if the SAE has one of this name."""
    new = insert(LabelSet).values(
        sae_id=sae_id,
        name=name,
        needed=needed,
        blind=blind,
        label_order=order,
        scope=dict(scope),
        created_by=person_id,
    )
    made = await session.scalar(new.on_conflict_do_nothing().returning(LabelSet.id))
    return None if made is None else await get_set(session, made)


async def update_set(
    session: AsyncSession, set_id: int, *, name: str, needed: int, blind: bool, order: str, is_closed: bool
) -> None:
    """Change the rules of a set, and close it or open it again: its labels are withheld while it is blind and open."""
    closed_at = func.coalesce(LabelSet.closed_at, func.now()) if is_closed else None
    values = {"name": name, "needed": needed, "blind": blind, "label_order": order, "closed_at": closed_at}
    changed = update(LabelSet).where(LabelSet.id == set_id).values(values)
    await session.execute(changed, execution_options={"synchronize_session": False})
    withheld = blind and not is_closed
    labels = update(Label).where(Label.label_set_id == set_id, Label.withheld != withheld).values(withheld=withheld)
    await session.execute(labels, execution_options={"synchronize_session": False})


async def add_guideline(
    session: AsyncSession,
    set_id: int,
    text: str,
    categories: Sequence[str],
    *,
    person_id: int,
    read_version: int | None,
) -> int | None:
    """Write the version of a guideline that follows `read_version` (None: the first); None if there is one already."""
    version = (read_version or 0) + 1
    row = {"set_id": set_id, "version": version, "text": text, "categories": list(categories), "person_id": person_id}
    new = insert(Guideline).values(row).on_conflict_do_nothing().returning(Guideline.version)
    return await session.scalar(new)


async def list_guidelines(session: AsyncSession, set_id: int, *, limit: int | None = None) -> list[GuidelineView]:
    """Return the versions of a set's guideline, newest first."""
    query = (
        select(Guideline, Person.name)
        .join(Person, Person.id == Guideline.person_id)
        .where(Guideline.set_id == set_id)
        .order_by(Guideline.version.desc())
        .limit(limit)
    )
    return [
        GuidelineView(row.version, row.text, tuple(row.categories), by, row.created_at)
        for row, by in await session.execute(query)
    ]


async def current_guideline(session: AsyncSession, set_id: int) -> GuidelineView | None:
    """Return the newest version of a set's guideline."""
    return next(iter(await list_guidelines(session, set_id, limit=1)), None)


async def put_features(session: AsyncSession, set_id: int, features: Sequence[int]) -> None:
    """Let a set be about these features, in this order; those that it has get new places."""
    if not features:
        return
    given = (
        func.unnest(literal(list(features), ARRAY(Integer)))
        .table_valued("feature", with_ordinality="place")
        .render_derived()
    )
    rows = select(literal(set_id), given.c.feature, given.c.place)
    new = insert(LabelSetFeature).from_select(["set_id", "feature", "place"], rows)
    await session.execute(
        new.on_conflict_do_update(
            index_elements=[LabelSetFeature.set_id, LabelSetFeature.feature], set_={"place": new.excluded.place}
        )
    )


async def set_features(session: AsyncSession, set_id: int) -> list[int]:
    """Return the features of a set in its own order."""
    query = select(LabelSetFeature.feature).where(LabelSetFeature.set_id == set_id).order_by(LabelSetFeature.place)
    return list(await session.scalars(query))


async def has_feature(session: AsyncSession, set_id: int, feature: int) -> bool:
    """True if a set is about a feature by name, not only because it takes any."""
    return bool(await session.scalar(_HAS, {"set": set_id, "feature": feature}))


_HAS = select(
    exists().where(LabelSetFeature.set_id == bindparam("set"), LabelSetFeature.feature == bindparam("feature"))
)


async def active_features(session: AsyncSession, sae: SaeDetail, *, limit: int) -> list[int]:
    """Return the features of the index that are active at all, the strongest first."""
    if sae.index is None:
        return []
    query = (
        select(Feature.number)
        .where(Feature.index_id == sae.index.id, Feature.max > 0)
        .order_by(Feature.max.desc(), Feature.number.desc())
        .limit(limit)
    )
    return list(await session.scalars(query))


async def by_statistic(session: AsyncSession, sae: SaeDetail, features: Sequence[int], order: str) -> list[int]:
    """Return features by `density` or by `effect`, the largest first; those without the statistic come last."""
    if sae.index is None:
        return list(features)
    effect = and_(FeatureEffect.sae_id == sae.id, FeatureEffect.feature == Feature.number)
    key = Feature.density if order == "density" else FeatureEffect.ratio
    query = (
        select(Feature.number)
        .outerjoin(FeatureEffect.__table__, effect)
        .where(Feature.index_id == sae.index.id, in_array(Feature.number, features))
        .order_by(key.desc().nulls_last(), Feature.number)
    )
    found = list(await session.scalars(query))
    return [*found, *sorted(set(features).difference(found))]


async def put_assignments(session: AsyncSession, set_id: int, assigned: Mapping[int, Sequence[int]]) -> None:
    """Replace who is asked to label what: features by person. They must be features of the set."""
    await session.execute(delete(LabelAssignment).where(LabelAssignment.set_id == set_id))
    for person_id, features in assigned.items():
        numbers = func.unnest(literal(list(features), ARRAY(Integer)))
        rows = select(literal(set_id), numbers, literal(person_id))
        await session.execute(insert(LabelAssignment).from_select(["set_id", "feature", "person_id"], rows))


async def list_assignments(session: AsyncSession, set_id: int) -> list[tuple[str, int]]:
    """Return who is asked to label, and how many features."""
    query = (
        select(Person.name, func.count())
        .join(LabelAssignment, LabelAssignment.person_id == Person.id)
        .where(LabelAssignment.set_id == set_id)
        .group_by(Person.id)
        .order_by(Person.name)
    )
    return [(name, features) for name, features in await session.execute(query)]


def _view(row: LabelSet, guideline: int | None) -> LabelSetView:
    return LabelSetView(
        id=row.id,
        sae_id=row.sae_id,
        name=row.name,
        needed=row.needed,
        blind=row.blind,
        order=row.label_order,
        scope=row.scope,
        created_by=row.created_by,
        created_at=row.created_at,
        closed_at=row.closed_at,
        guideline=guideline,
    )
