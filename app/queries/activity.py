"""Activity: a record of who did what and of alerts, and the count of label changes, which is in the ETags of pages.

A row stays as it was written, but for alerts of monitors: those of one minute join one row.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime

from sqlalchemy import BigInteger, Integer, any_, bindparam, exists, func, insert, or_, select, text, union_all, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.queries.sql.visibility import NOBODY, Reader, visible_activity
from app.tables import Activity, Comment, LabelCount, LabelSet, MonitorAlert, Person, Sae, SavedMonitor

CHANNEL = "activity"
"""Channel of the notification that each committed row sends; `app/services/changes.py` listens to it."""

WEBHOOKS = "webhooks"
DELIVER = "deliver_webhook"
"""The queue of deliveries and the task that makes one; `app.runs.queue` has the task."""

ALERT = "alert raised"
ACKNOWLEDGED = "alert acknowledged"
ALERT_SECONDS = 60
"""A monitor's first alert is told at once, and those of the next so many seconds together: however many texts a scan or
an endpoint has, a webhook gets no more messages than that, and the feed no more rows."""


@dataclass(frozen=True, slots=True)
class Event:
    """One act of a person in a label set or on a monitor; or alerts of a monitor, which are nobody's act.

    `subject` is the id of the label, comment, decision or alert that it was done to.
    """

    person_id: int | None
    act: str
    sae_id: int | None = None
    label_set_id: int | None = None
    feature: int | None = None
    subject: int | None = None
    monitor_id: int | None = None
    monitor: str | None = None
    alerts: int | None = None
    open_until: datetime | None = None


async def add_activity(session: AsyncSession, event: Event) -> int:
    """Record what somebody did, notify open pages, and queue what webhooks are told; return the id of the act.

    Of changes of a draft, which nobody else sees, neither pages nor webhooks learn; of a blind set that is open,
    webhooks learn nothing. An act on an SAE counts as a change of its pages, as their ETags see it.
    """
    if event.sae_id is not None:
        await count_changes(session, event.sae_id)
    sent = {**asdict(event), "channel": CHANNEL, "queue": WEBHOOKS, "task": DELIVER}
    added: int = (await session.execute(_ADD, sent)).scalar_one()
    acts_of(session).append(added)
    return added


def acts_of(session: AsyncSession) -> list[int]:
    """Return the ids of the acts that were recorded by this session."""
    acts: list[int] = session.info.setdefault("acts", [])
    return acts


_NOTIFY = """pg_notify(:channel, json_build_object('id', id, 'person_id', person_id, 'sae_id', sae_id,
    'label_set_id', label_set_id, 'monitor_id', monitor_id, 'feature', feature, 'withheld', withheld)::text)"""

_ADD = text(f"""
WITH added AS (
    INSERT INTO activity (person_id, act, sae_id, label_set_id, feature, subject, monitor_id, monitor, alerts,
        open_until)
    VALUES (:person_id, :act, :sae_id, :label_set_id, :feature, :subject, :monitor_id, :monitor, :alerts, :open_until)
    RETURNING *
), told AS (
    SELECT added.*, COALESCE(label_set.blind AND label_set.closed_at IS NULL, FALSE) AS withheld
    FROM added LEFT JOIN label_set ON label_set.id = added.label_set_id
    WHERE NOT (added.act LIKE 'label %' AND COALESCE((
        SELECT bool_and(last.status = 'draft') FROM (
            SELECT status FROM label_revision WHERE label_id = added.subject ORDER BY version DESC LIMIT 2
        ) AS last), FALSE))
), deliveries AS (
    INSERT INTO webhook_delivery (webhook_id, activity_id)
    SELECT webhook.id, told.id FROM told
    JOIN webhook ON (webhook.monitor_id = told.monitor_id OR webhook.sae_id = told.sae_id
            AND (webhook.label_set_id IS NULL OR webhook.label_set_id = told.label_set_id))
        AND split_part(told.act, ' ', 1) = ANY (webhook.kinds)
    WHERE NOT told.withheld RETURNING id
), jobs AS (
    SELECT procrastinate_defer_jobs_v1(ARRAY[ROW(
        :queue, :task, 0, NULL, NULL, jsonb_build_object('delivery_id', id), CAST(:open_until AS timestamptz)
    )::procrastinate_job_to_defer_v1])
    FROM deliveries
), notified AS (
    SELECT {_NOTIFY} FROM told
)
SELECT id, (SELECT count(*) FROM jobs), (SELECT count(*) FROM notified) FROM added
""")  # noqa: S608


async def add_alerts(session: AsyncSession, monitor_id: int, alerts: Sequence[int]) -> None:
    """Tell of new alerts of a monitor, by their ids: in a row of their own, or in one that waits to be sent."""
    # Who adds alerts at once takes turns, and the next statement sees what the one before wrote.
    name = await session.scalar(_LOCK, {"monitor": monitor_id})
    last = (await session.execute(_LAST_ALERTS, {"monitor": monitor_id, "seconds": ALERT_SECONDS})).one_or_none()
    act = None
    if last is not None:
        act = await session.scalar(_JOIN, {"id": last.id, "alerts": len(alerts), "channel": CHANNEL})
    if act is None:
        until = last.following if last is not None else None
        event = Event(None, ALERT, subject=alerts[0], monitor_id=monitor_id, monitor=name, alerts=len(alerts))
        act = await add_activity(session, replace(event, open_until=until))
    await session.execute(update(MonitorAlert).where(MonitorAlert.id.in_(alerts)).values(activity_id=act))


_LOCK = text("SELECT name FROM monitor WHERE id = :monitor FOR NO KEY UPDATE")
_LAST_ALERTS = text(f"""
SELECT id, greatest(clock_timestamp(), COALESCE(open_until, at) + make_interval(secs => :seconds)) AS following
FROM activity WHERE monitor_id = :monitor AND act = '{ALERT}' ORDER BY id DESC LIMIT 1
""")  # noqa: S608
_JOIN = text(f"""
WITH joined AS (
    UPDATE activity SET alerts = alerts + :alerts WHERE id = :id AND open_until > clock_timestamp()
    RETURNING *, FALSE AS withheld
)
SELECT id, {_NOTIFY} FROM joined
""")  # noqa: S608


async def latest_activity(session: AsyncSession, sae_id: int, feature: int, *, reader: Reader = NOBODY) -> int:
    """Return the id of the last act that `reader` may know of on a feature, or on a whole set; 0 if there was none."""
    return await session.scalar(_LATEST, {"after": 0, "sae": sae_id, "feature": feature, **reader.parameters}) or 0


async def acts_after(session: AsyncSession, after: int, sae_id: int, feature: int, *, reader: Reader) -> list[int]:
    """Return the ids of the acts after one, in order, that `reader` may know of on a feature, or on a whole set.

    The last hundred of each: whoever asks wants to know whether there are some that are not their own.
    """
    sent = {"after": after, "sae": sae_id, "feature": feature, **reader.parameters}
    return sorted((await session.scalars(_AFTER, sent)).all())


_NEWEST = [
    select(Activity.id)
    .where(
        Activity.sae_id == bindparam("sae"), place, Activity.id > bindparam("after", type_=BigInteger), visible_activity
    )
    .order_by(Activity.feature.desc(), Activity.id.desc())
    for place in (Activity.feature == bindparam("feature"), Activity.feature.is_(None))
]
"""Acts on a feature, and on whole sets. With the index's own order Postgres reads no more of it than it returns; with
`max(id)` and `feature IS NULL`, or both places in one condition, it may read all acts of an SAE."""
_LATEST = select(func.greatest(*(newest.limit(1).scalar_subquery() for newest in _NEWEST)))
_AFTER = union_all(*(newest.limit(100) for newest in _NEWEST))


@dataclass(frozen=True, slots=True)
class ActivityView:
    """An act, and who did it on what; `subject` is the id of the label, comment, decision or alert.

    `label_set` is None of an act on a monitor, and `person` of its alerts; `has_monitor` is False once it was deleted.
    """

    id: int
    at: datetime
    person: str | None
    act: str
    sae: str | None
    label_set_id: int | None
    label_set: str | None
    feature: int | None
    subject: int | None
    monitor: str | None
    has_monitor: bool
    alerts: int | None


async def list_activity(
    session: AsyncSession,
    *,
    reader: Reader,
    sae_id: int | None = None,
    label_set_id: int | None = None,
    monitor_id: int | None = None,
    mentions: bool = False,
    before: int | None = None,
    limit: int,
) -> list[ActivityView]:
    """Return acts that `reader` may know of, newest first: all, or those before an id, on an SAE, in a set.

    Those on an SAE are also those on monitors of its features. With `mentions`, only comments that name the reader.
    """
    query = _ACTIVITY
    if sae_id is not None:
        watching = select(SavedMonitor.id).where(SavedMonitor.sae_id == sae_id)
        query = query.where(or_(Activity.sae_id == sae_id, Activity.monitor_id.in_(watching)))
    if label_set_id is not None:
        query = query.where(Activity.label_set_id == label_set_id)
    if monitor_id is not None:
        query = query.where(Activity.monitor_id == monitor_id)
    if before is not None:
        query = query.where(Activity.id < before)
    if mentions:
        named = exists().where(
            Comment.id == Activity.subject, bindparam("reader", type_=Integer) == any_(Comment.mentions)
        )
        query = query.where(Activity.act == "comment added", named.correlate(Activity))
    rows = await session.execute(query.order_by(Activity.id.desc()).limit(limit), reader.parameters)
    return [_view(*row) for row in rows]


_ACTIVITY = (
    select(Activity, Person.name.label("person"), Sae.slug, LabelSet.name.label("label_set"))
    .outerjoin(Person, Person.id == Activity.person_id)
    .outerjoin(SavedMonitor, SavedMonitor.id == Activity.monitor_id)
    .outerjoin(Sae, Sae.id == func.coalesce(Activity.sae_id, SavedMonitor.sae_id))
    .outerjoin(LabelSet, LabelSet.id == Activity.label_set_id)
    .where(visible_activity)
)


def _view(row: Activity, person: str | None, sae: str | None, label_set: str | None) -> ActivityView:
    return ActivityView(
        id=row.id,
        at=row.at,
        person=person,
        act=row.act,
        sae=sae,
        label_set_id=row.label_set_id,
        label_set=label_set,
        feature=row.feature,
        subject=row.subject,
        monitor=row.monitor,
        has_monitor=row.monitor_id is not None,
        alerts=row.alerts,
    )


async def count_changes(session: AsyncSession, sae_id: int) -> None:
    """Let pages about an SAE's features know that something on them changed, without waiting for anybody.

    Two changes at once count in two rows: the second one passes over the row that the first one holds.
    """
    counted = await session.scalar(_COUNT, {"sae": sae_id})
    if counted is None:
        await session.execute(insert(LabelCount).values(sae_id=sae_id, changes=1))


_COUNT = (
    update(LabelCount)
    .where(
        LabelCount.slot
        == select(LabelCount.slot)
        .where(LabelCount.sae_id == bindparam("sae"))
        .order_by(LabelCount.slot)
        .limit(1)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    .values(changes=LabelCount.changes + 1)
    .returning(LabelCount.slot)
    .execution_options(synchronize_session=False)
)
