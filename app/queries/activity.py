"""Activity: an append-only record of who did what, and the count of label changes, which is in the ETags of pages."""

from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import Integer, any_, bindparam, exists, func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.queries.sql.visibility import NOBODY, Reader, visible_activity
from app.tables import Activity, Comment, LabelCount, LabelSet, Person, Sae

CHANNEL = "activity"
"""Channel of the notification that each committed row sends; `app/services/changes.py` listens to it."""

WEBHOOKS = "webhooks"
DELIVER = "deliver_webhook"
"""The queue of deliveries and the task that makes one; `app.runs.queue` has the task."""


@dataclass(frozen=True, slots=True)
class Event:
    """One act of a person; `subject` is the id of the label, comment or decision that it was done to."""

    person_id: int
    act: str
    sae_id: int
    label_set_id: int
    feature: int | None = None
    subject: int | None = None


async def add_activity(session: AsyncSession, event: Event) -> None:
    """Record what somebody did, notify open pages, and queue what webhooks are told.

    Neither learns of changes of a draft, which nobody else sees; webhooks learn nothing of a blind set that is open.
    """
    await session.execute(_ADD, {**asdict(event), "channel": CHANNEL, "queue": WEBHOOKS, "task": DELIVER})


_ADD = text("""
WITH added AS (
    INSERT INTO activity (person_id, act, sae_id, label_set_id, feature, subject)
    VALUES (:person_id, :act, :sae_id, :label_set_id, :feature, :subject) RETURNING *
), told AS (
    SELECT added.*, label_set.blind AND label_set.closed_at IS NULL AS withheld
    FROM added JOIN label_set ON label_set.id = added.label_set_id
    WHERE NOT (added.act LIKE 'label %' AND COALESCE((
        SELECT bool_and(last.status = 'draft') FROM (
            SELECT status FROM label_revision WHERE label_id = added.subject ORDER BY version DESC LIMIT 2
        ) AS last), FALSE))
), deliveries AS (
    INSERT INTO webhook_delivery (webhook_id, activity_id)
    SELECT webhook.id, told.id FROM told
    JOIN webhook ON webhook.sae_id = told.sae_id AND split_part(told.act, ' ', 1) = ANY (webhook.kinds)
        AND (webhook.label_set_id IS NULL OR webhook.label_set_id = told.label_set_id)
    WHERE NOT told.withheld RETURNING id
), jobs AS (
    SELECT procrastinate_defer_jobs_v1(ARRAY[ROW(
        :queue, :task, 0, NULL, NULL, jsonb_build_object('delivery_id', id), NULL)::procrastinate_job_to_defer_v1])
    FROM deliveries
)
SELECT pg_notify(:channel, json_build_object('id', id, 'person_id', person_id, 'sae_id', sae_id,
    'label_set_id', label_set_id, 'feature', feature, 'withheld', withheld)::text), (SELECT count(*) FROM jobs)
FROM told
""")


async def latest_activity(session: AsyncSession, sae_id: int, feature: int, *, reader: Reader = NOBODY) -> int:
    """Return the id of the last act on a feature that `reader` may know of, 0 if there was none."""
    return await session.scalar(_LATEST, {"sae": sae_id, "feature": feature, **reader.parameters}) or 0


_LATEST = select(func.max(Activity.id)).where(
    Activity.sae_id == bindparam("sae"), Activity.feature == bindparam("feature"), visible_activity
)


@dataclass(frozen=True, slots=True)
class ActivityView:
    """An act, and who did it on what; `subject` is the id of the label, comment or decision."""

    id: int
    at: datetime
    person: str
    act: str
    sae: str
    label_set_id: int
    label_set: str
    feature: int | None
    subject: int | None


async def list_activity(
    session: AsyncSession,
    *,
    reader: Reader,
    sae_id: int | None = None,
    label_set_id: int | None = None,
    mentions: bool = False,
    before: int | None = None,
    limit: int,
) -> list[ActivityView]:
    """Return acts that `reader` may know of, newest first: all, or those before an id, on an SAE, in a set.

    With `mentions`, only comments that name the reader.
    """
    query = _ACTIVITY
    if sae_id is not None:
        query = query.where(Activity.sae_id == sae_id)
    if label_set_id is not None:
        query = query.where(Activity.label_set_id == label_set_id)
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
    .join(Person, Person.id == Activity.person_id)
    .join(Sae, Sae.id == Activity.sae_id)
    .join(LabelSet, LabelSet.id == Activity.label_set_id)
    .where(visible_activity)
)


def _view(row: Activity, person: str, sae: str, label_set: str) -> ActivityView:
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
