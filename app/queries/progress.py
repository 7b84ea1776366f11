"""How far the people of a label set are, how fast, and what is stuck."""

from dataclasses import dataclass
from datetime import date, datetime, timedelta

from sqlalchemy import Date, and_, bindparam, case, cast, func, literal_column, select, union_all
from sqlalchemy.ext.asyncio import AsyncSession

from app.queries.label_sets import LabelSetView
from app.tables import Label, LabelDraft, LabelLease, LabelRevision, LabelSetFeature, Person

STALE = timedelta(days=1)
"""A draft that nobody touched for this long is stuck."""
HELD_LONG = timedelta(hours=1)
"""A feature that a person has had for this long without a label is stuck."""
PAUSE = timedelta(minutes=15)
"""Between two labels of a person, a longer time is a pause and does not count as work."""
DAYS = 14
"""Days of the pace."""
MAX_STUCK = 50
"""Entries of each kind of what is stuck."""


@dataclass(frozen=True, slots=True)
class PersonProgress:
    """What one person has done in a set; `seconds` is their median time per label, None with fewer than three."""

    person_id: int
    name: str
    submitted: int
    cant_tell: int
    drafts: int
    last_at: datetime | None
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Stuck:
    """A feature that does not get on, whose it is, and since when."""

    feature: int
    person: str
    since: datetime


@dataclass(frozen=True, slots=True)
class Progress:
    """State of a set. A label that says "can't tell" is submitted, too."""

    features: int | None
    """Features of the set; None if it takes any."""
    started: int
    """Features with a label."""
    done: int
    """Features with as many labels as the set needs."""
    submitted: int
    cant_tell: int
    drafts: int
    people: tuple[PersonProgress, ...]
    """By labels, the most first."""
    days: tuple[tuple[date, int], ...]
    """Labels that were submitted on each day of the last two weeks, today (UTC) last."""
    held: tuple[Stuck, ...]
    """Leased for long."""
    drafted: tuple[Stuck, ...]
    """Drafts that nobody touched for long."""
    untold: tuple[int, ...]
    """Features of which everybody who labelled them, as many as needed, cannot tell what they respond to."""

    @property
    def left(self) -> int | None:
        """Return how many features still need labels; None if the set takes any."""
        return None if self.features is None else self.features - self.done


async def set_progress(session: AsyncSession, of: LabelSetView) -> Progress:
    """Return how far a set is."""
    key = {"set": of.id}
    features = None if of.takes_any else await session.scalar(_FEATURES, key)
    counts = (await session.execute(_COUNTS, {**key, "needed": of.needed})).one()
    drafts: dict[int, int] = dict(iter(await session.execute(_DRAFTS, key)))
    pace = dict(iter(await session.execute(_PACE, key)))
    people = [
        PersonProgress(
            row.id,
            row.name,
            row.submitted,
            row.cant_tell,
            drafts.get(row.id, 0),
            row.last_at,
            pace.get(row.id),
        )
        for row in await session.execute(_PEOPLE, key)
    ]
    return Progress(
        features=features,
        started=counts.started,
        done=counts.done,
        submitted=counts.submitted,
        cant_tell=counts.cant_tell,
        drafts=sum(drafts.values()),
        people=tuple(people),
        days=await _days(session, of.id),
        held=tuple(Stuck(*row) for row in await session.execute(_HELD, key)),
        drafted=tuple(Stuck(*row) for row in await session.execute(_DRAFTED, key)),
        untold=tuple(await session.scalars(_UNTOLD, {**key, "needed": of.needed})),
    )


_of_set = Label.label_set_id == bindparam("set")
_submitted = and_(_of_set, Label.status == "submitted")
_FEATURES = select(func.count()).select_from(LabelSetFeature).where(LabelSetFeature.set_id == bindparam("set"))
_per_feature = (
    select(
        func.count().label("labels"),
        func.count().filter(Label.cant_tell).label("cant_tell"),
    )
    .where(_submitted)
    .group_by(Label.feature)
    .subquery()
)
_COUNTS = select(
    func.count().label("started"),
    func.count().filter(_per_feature.c.labels >= bindparam("needed")).label("done"),
    func.coalesce(func.sum(_per_feature.c.labels), 0).label("submitted"),
    func.coalesce(func.sum(_per_feature.c.cant_tell), 0).label("cant_tell"),
)
_PEOPLE = (
    select(
        Person.id,
        Person.name,
        func.count().filter(Label.status == "submitted").label("submitted"),
        func.count().filter(Label.status == "submitted", Label.cant_tell).label("cant_tell"),
        func.max(case((Label.status == "submitted", Label.updated_at))).label("last_at"),
    )
    .join(Label, Label.person_id == Person.id)
    .where(_of_set, Label.status != "discarded")
    .group_by(Person.id, Person.name)
    .order_by(literal_column("submitted").desc(), Person.name)
)
_all_drafts = union_all(
    select(Label.person_id, Label.feature, Label.updated_at).where(_of_set, Label.status == "draft"),
    select(LabelDraft.person_id, LabelDraft.feature, LabelDraft.updated_at).where(
        LabelDraft.label_set_id == bindparam("set")
    ),
).subquery()
_DRAFTS = select(_all_drafts.c.person_id, func.count(_all_drafts.c.feature.distinct())).group_by(
    _all_drafts.c.person_id
)
_DRAFTED = (
    select(_all_drafts.c.feature, Person.name, func.max(_all_drafts.c.updated_at).label("since"))
    .join(Person, Person.id == _all_drafts.c.person_id)
    .group_by(_all_drafts.c.feature, Person.name)
    .having(func.max(_all_drafts.c.updated_at) < func.now() - STALE)
    .order_by(literal_column("since"))
    .limit(MAX_STUCK)
)
_HELD = (
    select(LabelLease.feature, Person.name, LabelLease.leased_at)
    .join(Person, Person.id == LabelLease.person_id)
    .where(LabelLease.set_id == bindparam("set"), LabelLease.leased_at < func.now() - HELD_LONG)
    .order_by(LabelLease.leased_at)
    .limit(MAX_STUCK)
)
_UNTOLD = (
    select(Label.feature)
    .where(_submitted)
    .group_by(Label.feature)
    .having(func.bool_and(Label.cant_tell), func.count() >= bindparam("needed"))
    .order_by(Label.feature)
    .limit(MAX_STUCK)
)
# When each label was submitted first: later changes are no further labels.
_first = (
    select(LabelRevision.label_id, Label.person_id, func.min(LabelRevision.changed_at).label("at"))
    .join(Label, Label.id == LabelRevision.label_id)
    .where(_submitted, LabelRevision.status == "submitted", LabelRevision.act != "imported")
    .group_by(LabelRevision.label_id, Label.person_id)
    .subquery()
)
_took = select(
    _first.c.person_id,
    (_first.c.at - func.lag(_first.c.at).over(partition_by=_first.c.person_id, order_by=_first.c.at)).label("took"),
).subquery()
_PACE = (
    select(
        _took.c.person_id,
        func.percentile_cont(0.5).within_group(func.extract("epoch", _took.c.took)),
    )
    .where(_took.c.took < PAUSE)
    .group_by(_took.c.person_id)
    .having(func.count() > 1)
)
_labelled_on = cast(func.timezone("UTC", _first.c.at), Date)
_TODAY = select(cast(func.timezone("UTC", func.now()), Date))
_DAYS = select(_labelled_on, func.count()).where(_first.c.at > func.now() - timedelta(days=DAYS)).group_by(_labelled_on)


async def _days(session: AsyncSession, set_id: int) -> tuple[tuple[date, int], ...]:
    """Return the labels of each of the last days, those without any too."""
    labels = dict(iter(await session.execute(_DAYS, {"set": set_id})))
    today = await session.scalar(_TODAY)
    assert today is not None
    days = [today - timedelta(days=before) for before in reversed(range(DAYS))]
    return tuple((day, labels.get(day, 0)) for day in days)
