"""The flow of labelling: which feature a person gets next, what they are typing, and how far they are.

A feature is leased to one person at a time. Whoever asks takes the first open feature that nobody else takes at that
moment (SKIP LOCKED), and what was seen before the lock is looked at once more by the statement that writes the lease.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Integer,
    Interval,
    Select,
    Text,
    and_,
    bindparam,
    case,
    cast,
    delete,
    exists,
    func,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.queries.label_sets import DEFAULT, LabelSetView, find_set
from app.queries.labels import standing_changes
from app.queries.sql.expressions import in_array
from app.queries.sql.pg_safe import clean_json
from app.tables import Label, LabelAssignment, LabelDraft, LabelLease, LabelRevision, LabelSetFeature, LabelSkip

LEASE = timedelta(minutes=10)
"""For how long a feature is one person's. Typing renews it."""
SITTING = timedelta(hours=12)
"""Time for which a person's changes in a set can be undone."""
_ATTEMPTS = 20
"""Times that another feature is tried when somebody else was faster; each time another is taken, so few are enough."""
_PACE_OVER = timedelta(hours=1)
_PACE_AFTER = timedelta(minutes=1)
"""A pace is of the labels of the last hour; of less than a minute it would be a guess."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A feature that a person has for themselves until `expires_at`."""

    feature: int
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class FlowProgress:
    """How far one person is in a set, and the set as a whole."""

    mine: int
    """Labels that they submitted."""
    left: int
    """Features that they can still label."""
    done: int
    """Features with as many labels as the set needs."""
    features: int
    per_hour: float | None
    """Their pace over the last hour; None with fewer than three labels."""


@dataclass(frozen=True, slots=True)
class LastAct:
    """What a person did last in a set: a feature that they labelled, or passed over (`label_id` is None)."""

    feature: int
    label_id: int | None
    version: int | None


_set = bindparam("set", type_=Integer)
_person = bindparam("person", type_=Integer)

_counts = (
    select(
        Label.feature,
        func.count().label("labels"),
        (
            func.count(cast(Label.categories, Text).distinct())
            + func.count(Label.cant_tell.distinct())
            + func.coalesce(func.max(Label.interpretability) - func.min(Label.interpretability), 0)
        ).label("spread"),
    )
    .where(Label.label_set_id == _set, Label.status == "submitted")
    .group_by(Label.feature)
    .subquery("counts")
)
_labels = func.coalesce(_counts.c.labels, 0)
_has_own = exists().where(
    Label.label_set_id == _set,
    Label.feature == LabelSetFeature.feature,
    Label.person_id == _person,
    Label.status != "discarded",
)
_of_lease = and_(LabelLease.set_id == _set, LabelLease.feature == LabelSetFeature.feature)
_taken = exists().where(_of_lease, LabelLease.person_id != _person, LabelLease.expires_at > func.now())
_assigned = exists().where(
    LabelAssignment.set_id == _set,
    LabelAssignment.feature == LabelSetFeature.feature,
    LabelAssignment.person_id == _person,
)
_skipped_at = (
    select(LabelSkip.skipped_at)
    .where(LabelSkip.set_id == _set, LabelSkip.feature == LabelSetFeature.feature, LabelSkip.person_id == _person)
    .scalar_subquery()
)
_to_label = and_(LabelSetFeature.set_id == _set, _labels < bindparam("needed", type_=Integer), ~_has_own)
"""Features of the set that lack a label, and that the person has not labelled."""


def _open(order: str) -> ColumnElement[bool]:
    """True for what the person may get now."""
    open_ = and_(_to_label, ~_taken, ~in_array(LabelSetFeature.feature, "besides"))
    return and_(open_, _assigned) if order == "assigned" else open_


def _first(order: str) -> list[Any]:
    """Return by what features are ordered: skipped ones last, one's own assignments first, then the set's order."""
    by: list[Any] = [_skipped_at.asc().nulls_first(), _assigned.desc()]
    if order == "disagreement":
        by.append(func.coalesce(_counts.c.spread, 0).desc())
    elif order == "fewest":
        by.append(_labels.asc())
    return [*by, LabelSetFeature.place]


def _candidates(*columns: Any) -> Select[Any]:
    return (
        select(*columns).select_from(LabelSetFeature).outerjoin(_counts, _counts.c.feature == LabelSetFeature.feature)
    )


_EXPIRES = func.now() + literal(LEASE)
_PLAIN: dict[str, Any] = {"synchronize_session": False}


async def lease_next(
    session: AsyncSession, of: LabelSetView, person_id: int, *, besides: Collection[int] = ()
) -> Lease | None:
    """Lease the next feature to a person; one that they have already comes first.

    Args:
        besides: features that they have on the screen: not given again, and their leases renewed.

    Returns:
        None if nothing is left for them, or all that is left is somebody else's just now.
    """
    key: dict[str, Any] = {"set": of.id, "person": person_id, "needed": of.needed, "besides": list(besides)}
    await session.execute(_RENEW, {**key, "features": list(besides)}, execution_options=_PLAIN)
    held = await session.scalar(_HELD, key)
    if held is not None and (lease := await _take(session, of, held, key)):
        return lease
    query = _candidates(LabelSetFeature.feature).where(_open(of.order)).order_by(*_first(of.order)).limit(1)
    for _ in range(_ATTEMPTS):
        feature = await session.scalar(query.with_for_update(of=LabelSetFeature, skip_locked=True), key)
        if feature is None:
            return None
        if lease := await _take(session, of, feature, key):
            return lease
        key["besides"] = [*key["besides"], feature]
    return None


async def lease_feature(session: AsyncSession, of: LabelSetView, feature: int, person_id: int) -> Lease | None:
    """Lease this feature to a person; None if it is somebody else's or lacks no label of theirs."""
    return await _take(session, of, feature, {"set": of.id, "person": person_id, "needed": of.needed, "besides": []})


async def _take(session: AsyncSession, of: LabelSetView, feature: int, key: Mapping[str, Any]) -> Lease | None:
    """Write a lease, if the feature is still open when it is written."""
    columns = literal(of.id), LabelSetFeature.feature, literal(key["person"]), func.now(), _EXPIRES
    row = _candidates(*columns).where(LabelSetFeature.feature == feature, _to_label).params(**key)
    new = insert(LabelLease).from_select(["set_id", "feature", "person_id", "leased_at", "expires_at"], row)
    mine = LabelLease.person_id == new.excluded.person_id
    taken = new.on_conflict_do_update(
        index_elements=[LabelLease.set_id, LabelLease.feature],
        set_={
            "person_id": new.excluded.person_id,
            "leased_at": case((mine, LabelLease.leased_at), else_=new.excluded.leased_at),
            "expires_at": new.excluded.expires_at,
        },
        where=or_(mine, LabelLease.expires_at <= func.now()),
    ).returning(LabelLease.feature, LabelLease.expires_at)
    found = (await session.execute(taken, execution_options=_PLAIN)).one_or_none()
    return None if found is None else Lease(*found)


_RENEW = (
    update(LabelLease)
    .where(LabelLease.set_id == _set, LabelLease.person_id == _person, in_array(LabelLease.feature, "features"))
    .values(expires_at=_EXPIRES)
)
_HELD = (
    _candidates(LabelSetFeature.feature)
    .join(LabelLease, and_(_of_lease, LabelLease.person_id == _person))
    .where(_to_label, ~in_array(LabelSetFeature.feature, "besides"))
    .order_by(LabelLease.leased_at, LabelSetFeature.feature)
    .limit(1)
)


async def current_lease(session: AsyncSession, of: LabelSetView, feature: int) -> tuple[int, datetime] | None:
    """Return who has a feature just now, and until when."""
    query = select(LabelLease.person_id, LabelLease.expires_at).where(
        LabelLease.set_id == of.id, LabelLease.feature == feature, LabelLease.expires_at > func.now()
    )
    row = (await session.execute(query)).one_or_none()
    return None if row is None else (row.person_id, row.expires_at)


async def held_feature(session: AsyncSession, of: LabelSetView, person_id: int | None) -> int | None:
    """Return the feature that a person has had for longest and not labelled yet."""
    key: dict[str, Any] = {"set": of.id, "person": person_id, "needed": of.needed, "besides": []}
    held: int | None = await session.scalar(_HELD, key)
    return held


async def renew_leases(session: AsyncSession, set_id: int, feature: int, person_id: int) -> None:
    """Keep a feature for its person for longer, and others that they have in the set: the next one is loaded."""
    key = {"set": set_id, "features": [feature], "person": person_id}
    await session.execute(_RENEW_ALL, key, execution_options=_PLAIN)


async def held_by_others(session: AsyncSession, of: LabelSetView, person_id: int | None) -> tuple[int, datetime] | None:
    """Return how many features others have before them, and when the first is free again; None if any is free now."""
    key: dict[str, Any] = {"set": of.id, "person": person_id, "needed": of.needed, "besides": []}
    if await session.scalar(_candidates(LabelSetFeature.feature).where(_open(of.order)).limit(1), key) is not None:
        return None
    held = and_(_of_lease, LabelLease.person_id != _person, LabelLease.expires_at > func.now())
    query = _candidates(func.count().label("features"), func.min(LabelLease.expires_at).label("until"))
    query = query.join(LabelLease, held).where(_to_label)
    row = (await session.execute(query.where(_assigned) if of.order == "assigned" else query, key)).one()
    return (row.features, row.until) if row.features else None


async def end_lease(session: AsyncSession, set_id: int, feature: int, person_id: int) -> None:
    """End what a label ends: its author's lease, what they were typing, and that they passed the feature over."""
    key = {"set": set_id, "feature": feature, "person": person_id}
    for statement in (_END_LEASE, _END_DRAFT, _END_SKIP):
        await session.execute(statement, key, execution_options=_PLAIN)


_feature = bindparam("feature", type_=Integer)
_RENEW_ALL = (
    update(LabelLease)
    .where(LabelLease.set_id == _set, LabelLease.person_id == _person)
    .where(or_(in_array(LabelLease.feature, "features"), LabelLease.expires_at > func.now()))
    .values(expires_at=_EXPIRES)
)
_END_LEASE = delete(LabelLease).where(
    LabelLease.set_id == _set, LabelLease.feature == _feature, LabelLease.person_id == _person
)
_END_DRAFT = delete(LabelDraft).where(
    LabelDraft.label_set_id == _set, LabelDraft.feature == _feature, LabelDraft.person_id == _person
)
_END_SKIP = delete(LabelSkip).where(
    LabelSkip.set_id == _set, LabelSkip.feature == _feature, LabelSkip.person_id == _person
)


async def skip_feature(session: AsyncSession, set_id: int, feature: int, person_id: int) -> None:
    """Pass a feature over: it comes back to this person last, and is free for others at once."""
    new = insert(LabelSkip).values(set_id=set_id, feature=feature, person_id=person_id)
    await session.execute(
        new.on_conflict_do_update(
            index_elements=[LabelSkip.set_id, LabelSkip.feature, LabelSkip.person_id],
            set_={"skipped_at": func.clock_timestamp()},
        )
    )
    key = {"set": set_id, "feature": feature, "person": person_id}
    await session.execute(_END_LEASE, key, execution_options=_PLAIN)


async def last_act(session: AsyncSession, set_id: int, person_id: int) -> LastAct | None:
    """Return what a person labelled or passed over last in a set, of late and apart from what they took back."""
    skip = (
        select(LabelSkip.feature, LabelSkip.skipped_at.label("at"))
        .where(LabelSkip.set_id == set_id, LabelSkip.person_id == person_id)
        .where(LabelSkip.skipped_at > func.now() - SITTING)
        .order_by(LabelSkip.skipped_at.desc())
        .limit(1)
    )
    skipped = (await session.execute(skip)).one_or_none()
    rows = await session.execute(_LATELY, {"set": set_id, "person": person_id, "sitting": SITTING})
    tops = [
        standing[-1]
        for _, changes in groupby(rows, key=lambda row: row.label_id)
        if (standing := standing_changes(changes))
    ]
    own = [top for top in tops if top.is_late and top.act in ("saved", "discarded")]
    labelled = max(own, key=lambda top: (top.changed_at, top.label_id), default=None)
    if skipped is not None and (labelled is None or skipped.at > labelled.changed_at):
        return LastAct(skipped.feature, None, None)
    return None if labelled is None else LastAct(labelled.feature, labelled.label_id, labelled.now)


_since = func.now() - bindparam("sitting", type_=Interval)
_LATELY = (
    select(
        LabelRevision.label_id,
        LabelRevision.act,
        LabelRevision.changed_at,
        (LabelRevision.changed_at > _since).label("is_late"),
        Label.feature,
        Label.version.label("now"),
    )
    .join(Label, Label.id == LabelRevision.label_id)
    .where(Label.label_set_id == _set, Label.person_id == _person, Label.updated_at > _since)
    .order_by(LabelRevision.label_id, LabelRevision.version)
)


async def unskip(session: AsyncSession, set_id: int, feature: int, person_id: int) -> None:
    """Forget that a person passed a feature over."""
    key = {"set": set_id, "feature": feature, "person": person_id}
    await session.execute(_END_SKIP, key, execution_options=_PLAIN)


async def put_draft(
    session: AsyncSession, set_id: int, feature: int, person_id: int, fields: Mapping[str, Any]
) -> None:
    """Keep what a person is typing about a feature."""
    new = insert(LabelDraft).values(
        label_set_id=set_id, feature=feature, person_id=person_id, fields=clean_json(fields)
    )
    await session.execute(
        new.on_conflict_do_update(
            index_elements=[LabelDraft.label_set_id, LabelDraft.feature, LabelDraft.person_id],
            set_={"fields": new.excluded.fields, "updated_at": func.now()},
        )
    )


async def delete_draft(session: AsyncSession, set_id: int, feature: int, person_id: int) -> None:
    """Forget what a person was typing about a feature."""
    key = {"set": set_id, "feature": feature, "person": person_id}
    await session.execute(_END_DRAFT, key, execution_options=_PLAIN)


async def get_draft(
    session: AsyncSession, set_id: int, feature: int, person_id: int | None
) -> Mapping[str, Any] | None:
    """Return what a person was typing about a feature."""
    query = select(LabelDraft.fields).where(
        LabelDraft.label_set_id == set_id, LabelDraft.feature == feature, LabelDraft.person_id == person_id
    )
    fields: Mapping[str, Any] | None = await session.scalar(query)
    return fields


async def default_draft(
    session: AsyncSession, sae_id: int, feature: int, person_id: int | None
) -> Mapping[str, Any] | None:
    """Return what a person was typing about a feature outside of any set of features."""
    of = await find_set(session, sae_id, DEFAULT) if person_id is not None else None
    return None if of is None else await get_draft(session, of.id, feature, person_id)


async def flow_progress(session: AsyncSession, of: LabelSetView, person_id: int | None) -> FlowProgress:
    """Return how far a person is in a set."""
    key = {"set": of.id, "person": person_id, "needed": of.needed}
    mine_to_do = and_(_to_label, _assigned) if of.order == "assigned" else _to_label
    query = _candidates(
        func.count().label("features"),
        func.count().filter(_labels >= bindparam("needed", type_=Integer)).label("done"),
        func.count().filter(mine_to_do).label("left"),
    ).where(LabelSetFeature.set_id == _set)
    counts = (await session.execute(query, key)).one()
    mine = (await session.execute(_MINE, key)).one()
    pace = None
    if mine.spent and mine.spent >= _PACE_AFTER:
        pace = 3600 * (mine.lately - 1) / mine.spent.total_seconds()
    return FlowProgress(mine.labels, counts.left, counts.done, counts.features, pace)


_lately = Label.created_at > func.now() - _PACE_OVER
_MINE = select(
    func.count().label("labels"),
    func.count().filter(_lately).label("lately"),
    (func.max(Label.created_at).filter(_lately) - func.min(Label.created_at).filter(_lately)).label("spent"),
).where(Label.label_set_id == _set, Label.person_id == _person, Label.status == "submitted")
