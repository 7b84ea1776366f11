"""Webhooks and their deliveries, which `add_activity` queues in the transaction of the act that they tell of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.queries.sql.pg_safe import is_id
from app.tables import (
    Activity,
    LabelSet,
    Person,
    Sae,
    SavedMonitor,
    Webhook,
    WebhookDelivery,
)


@dataclass(frozen=True, slots=True)
class WebhookView:
    """A webhook of an SAE or of a monitor, without its secret. `waiting` and `failed` are numbers of deliveries.

    `monitor_owner_id` is None once the monitor was deleted.
    """

    id: int
    url: str
    kinds: tuple[str, ...]
    sae: str | None
    label_set: str | None
    label_set_id: int | None
    monitor: str | None
    monitor_id: int | None
    monitor_owner_id: int | None
    created_by: str
    created_by_id: int
    created_at: datetime
    waiting: int
    failed: int


@dataclass(frozen=True, slots=True)
class DeliveryView:
    """One act that a webhook is told of, and how the last attempt went."""

    id: int
    act: str
    feature: int | None
    alerts: int | None
    state: str
    attempts: int
    status: int | None
    error: str
    created_at: datetime
    attempted_at: datetime | None


@dataclass(frozen=True, slots=True)
class Message:
    """A delivery that waits: its address and secret, and the act that it tells of, in a label set or on a monitor."""

    id: int
    url: str
    secret: str
    attempts: int
    activity_id: int
    act: str
    at: datetime
    person: str | None
    sae: str | None
    label_set: str | None
    feature: int | None
    subject: int | None
    monitor: str | None
    alerts: int | None


@dataclass(frozen=True, slots=True)
class MonitorState:
    """Settings of a monitor at the time of a message; texts of alerts are sent only with `keep_text`."""

    state: str
    candidate: str
    threshold: float
    fpr: float
    keep_text: bool


async def insert_webhook(
    session: AsyncSession,
    *,
    url: str,
    secret: str,
    kinds: Sequence[str],
    of: Mapping[str, Any],
    created_by: int,
) -> int:
    """Write a webhook `of` an SAE (`sae_id`, `label_set_id`) or a monitor (`monitor_id`, `monitor`); return its id."""
    row = {"url": url, "secret": secret, "kinds": list(kinds), **of}
    new = insert(Webhook).values(**row, created_by=created_by).returning(Webhook.id)
    return (await session.execute(new)).scalar_one()


def _number(state: str) -> object:
    count = select(func.count()).where(WebhookDelivery.webhook_id == Webhook.id, WebhookDelivery.state == state)
    return count.correlate(Webhook).scalar_subquery()


_WEBHOOKS = (
    select(  # type: ignore[call-overload]
        Webhook,
        Sae.slug,
        LabelSet.name,
        SavedMonitor.owner_id,
        Person.name.label("by"),
        _number("waiting"),
        _number("failed"),
    )
    .join(Person, Person.id == Webhook.created_by)
    .outerjoin(Sae, Sae.id == Webhook.sae_id)
    .outerjoin(LabelSet, LabelSet.id == Webhook.label_set_id)
    .outerjoin(SavedMonitor, SavedMonitor.id == Webhook.monitor_id)
    .order_by(Webhook.id.desc())
)


async def list_webhooks(session: AsyncSession) -> list[WebhookView]:
    """Return all webhooks, the newest first."""
    return [_view(*row) for row in await session.execute(_WEBHOOKS)]


async def get_webhook(session: AsyncSession, webhook_id: int) -> WebhookView | None:
    """Return a webhook."""
    if not is_id(webhook_id):
        return None
    row = (await session.execute(_WEBHOOKS.where(Webhook.id == webhook_id))).one_or_none()
    return None if row is None else _view(*row)


async def count_webhooks(session: AsyncSession, monitor_id: int) -> int:
    """Return how many webhooks a monitor has."""
    return await session.scalar(select(func.count()).where(Webhook.monitor_id == monitor_id)) or 0


async def delete_webhook(session: AsyncSession, webhook_id: int) -> None:
    """Delete a webhook with its deliveries."""
    await session.execute(text("DELETE FROM webhook WHERE id = :id"), {"id": webhook_id})


async def list_deliveries(
    session: AsyncSession, webhook_id: int, *, before: int | None = None, limit: int
) -> list[DeliveryView]:
    """Return deliveries of a webhook, the newest first."""
    query = (
        select(WebhookDelivery, Activity.act, Activity.feature, Activity.alerts)
        .join(Activity, Activity.id == WebhookDelivery.activity_id)
        .where(WebhookDelivery.webhook_id == webhook_id)
    )
    if before is not None:
        query = query.where(WebhookDelivery.id < before)
    rows = await session.execute(query.order_by(WebhookDelivery.id.desc()).limit(limit))
    return [
        DeliveryView(
            id=row.id,
            act=act,
            feature=feature,
            alerts=alerts,
            state=row.state,
            attempts=row.attempts,
            status=row.status,
            error=row.error,
            created_at=row.created_at,
            attempted_at=row.attempted_at,
        )
        for row, act, feature, alerts in rows
    ]


async def get_message(session: AsyncSession, delivery_id: int) -> Message | None:
    """Return what a delivery that waits sends; None if it is done, or its webhook was deleted."""
    query = (
        select(WebhookDelivery, Webhook, Activity, Person.name, Sae.slug, LabelSet.name.label("label_set"))
        .join(Webhook, Webhook.id == WebhookDelivery.webhook_id)
        .join(Activity, Activity.id == WebhookDelivery.activity_id)
        .outerjoin(Person, Person.id == Activity.person_id)
        .outerjoin(Sae, Sae.id == Activity.sae_id)
        .outerjoin(LabelSet, LabelSet.id == Activity.label_set_id)
        .where(WebhookDelivery.id == delivery_id, WebhookDelivery.state == "waiting")
    )
    row = (await session.execute(query)).one_or_none()
    if row is None:
        return None
    delivery, webhook, activity, person, sae, label_set = row
    return Message(
        id=delivery.id,
        url=webhook.url,
        secret=webhook.secret,
        attempts=delivery.attempts,
        activity_id=activity.id,
        act=activity.act,
        at=activity.at,
        person=person,
        sae=sae,
        label_set=label_set,
        feature=activity.feature,
        subject=activity.subject,
        monitor=activity.monitor,
        alerts=activity.alerts,
    )


async def get_monitor_state(session: AsyncSession, activity_id: int) -> MonitorState | None:
    """Return the monitor that an act was done to; None if it was deleted."""
    columns = SavedMonitor.state, SavedMonitor.candidate, SavedMonitor.threshold, SavedMonitor.fpr
    query = select(*columns, SavedMonitor.keep_text).join(Activity, Activity.monitor_id == SavedMonitor.id)
    row = (await session.execute(query.where(Activity.id == activity_id))).one_or_none()
    return None if row is None else MonitorState(*row)


async def close_alerts(session: AsyncSession, delivery_id: int) -> None:
    """Let no alert join any more the act that a delivery tells of, because it is being sent."""
    of = select(WebhookDelivery.activity_id).where(WebhookDelivery.id == delivery_id).scalar_subquery()
    query = update(Activity).where(Activity.id == of, Activity.open_until.is_not(None))
    await session.execute(query.values(open_until=func.least(Activity.open_until, func.clock_timestamp())))


async def note_attempt(session: AsyncSession, delivery_id: int, *, state: str, status: int | None, error: str) -> None:
    """Note how an attempt went."""
    values = {
        "state": state,
        "status": status,
        "error": error,
        "attempts": WebhookDelivery.attempts + 1,
        "attempted_at": func.now(),
    }
    await session.execute(update(WebhookDelivery).where(WebhookDelivery.id == delivery_id).values(values))


def _view(
    row: Webhook, sae: str | None, label_set: str | None, owner_id: int | None, by: str, waiting: int, failed: int
) -> WebhookView:
    return WebhookView(
        id=row.id,
        url=row.url,
        kinds=tuple(row.kinds),
        sae=sae,
        label_set=label_set,
        label_set_id=row.label_set_id,
        monitor=row.monitor,
        monitor_id=row.monitor_id,
        monitor_owner_id=owner_id,
        created_by=by,
        created_by_id=row.created_by,
        created_at=row.created_at,
        waiting=waiting,
        failed=failed,
    )
