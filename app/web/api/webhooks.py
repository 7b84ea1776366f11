"""Webhooks: make, list, delete, and see what was sent. For admins; those of a monitor for whoever may change it."""

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field

from app.problems import documented
from app.queries import webhooks as queries
from app.queries.sql.pg_safe import MAX_INTEGER
from app.queries.webhooks import WebhookView
from app.services import webhooks as service
from app.services.webhooks import MAX_URL, create_webhook, find_webhook
from app.web.dependencies import Actor, AppSettings, Session

router = APIRouter(prefix="/api/v1", tags=["Webhooks"])

WebhookId = Annotated[int, Path(ge=1, le=MAX_INTEGER)]
Kind = Literal["label", "decision", "comment", "alert", "monitor"]


class WebhookOut(BaseModel):
    """A webhook, without its secret."""

    id: int
    url: str
    kinds: list[Kind]
    sae: str | None
    set: str | None
    monitor: Annotated[str | None, Field(description="Its name, which stays when it is deleted.")]
    created_by: str
    created_at: datetime
    waiting: Annotated[int, Field(description="Deliveries that are still to be made.")]
    failed: Annotated[int, Field(description="Deliveries that were given up.")]

    @classmethod
    def of(cls, view: WebhookView) -> "WebhookOut":
        """Return the webhook of a query's view."""
        return cls.model_validate(
            {name: getattr(view, name) for name in cls.model_fields if name != "set"} | {"set": view.label_set}
        )


class NewWebhook(WebhookOut):
    """A webhook with its secret, which is not shown again."""

    secret: str


class WebhookList(BaseModel):
    """Webhooks, the newest first."""

    webhooks: list[WebhookOut]


class WebhookIn(BaseModel):
    """A webhook to make."""

    model_config = ConfigDict(extra="forbid")

    url: Annotated[str, Field(max_length=MAX_URL, examples=["https://example.org/hook"])]
    sae: Annotated[str, Field(description="The SAE whose labels it is told of.")] = ""
    set: Annotated[str, Field(description="Only acts in this label set.")] = ""
    monitor: Annotated[str, Field(description="Instead of an SAE: the monitor whose alerts it is told of.")] = ""
    kinds: Annotated[
        list[Kind] | None,
        Field(description="Of an SAE label, decision, comment; of a monitor alert, monitor. By default all of them."),
    ] = None


class DeliveryOut(BaseModel):
    """One act that a webhook is told of, and how the last attempt went."""

    id: int
    act: str
    feature: int | None
    alerts: Annotated[int | None, Field(description="Alerts that the message tells of.")]
    state: Literal["waiting", "delivered", "failed"]
    attempts: int
    status: int | None
    error: str
    created_at: datetime
    attempted_at: datetime | None


class DeliveryPage(BaseModel):
    """Deliveries, the newest first. `next_before` is the `before` of the next page, null on the last one."""

    deliveries: list[DeliveryOut]
    next_before: int | None


@router.get("/webhooks", summary="List webhooks", responses=documented())
async def list_webhooks(
    session: Session,
    actor: Actor,
    monitor: Annotated[str, Query(max_length=200, description="Only those of this monitor.")] = "",
) -> WebhookList:
    """Return webhooks without their secrets: to admins all, to others those of monitors that they may change."""
    found = await service.list_webhooks(session, actor=actor, monitor=monitor)
    return WebhookList(webhooks=[WebhookOut.of(view) for view in found])


@router.post("/webhooks", summary="Make a webhook", status_code=201, responses=documented(403, 404, 409))
async def post_webhook(webhook: WebhookIn, session: Session, settings: AppSettings, actor: Actor) -> NewWebhook:
    """Send labels, decisions and comments of an SAE, or of one of its sets, to an address; or alerts of a monitor.

    Webhooks of SAEs are for admins, those of a monitor for whoever may change it.
    Each message is signed with the secret, as Standard Webhooks has it; the answer shows the secret once. Private
    addresses are refused, unless a setting allows them.
    """
    made, secret = await create_webhook(
        session,
        settings,
        actor=actor,
        url=webhook.url,
        kinds=webhook.kinds,
        sae=webhook.sae,
        label_set=webhook.set,
        monitor=webhook.monitor,
    )
    return NewWebhook(**WebhookOut.of(made).model_dump(), secret=secret)


@router.delete("/webhooks/{id}", summary="Delete a webhook", status_code=204, responses=documented(403, 404))
async def delete_webhook(id: WebhookId, session: Session, actor: Actor) -> None:
    """Delete a webhook, with the record of its deliveries; what waits is not sent."""
    await find_webhook(session, id, actor=actor)
    await queries.delete_webhook(session, id)


@router.get("/webhooks/{id}/deliveries", summary="Deliveries of a webhook", responses=documented(403, 404))
async def list_deliveries(
    id: WebhookId,
    session: Session,
    actor: Actor,
    before: Annotated[int | None, Query(ge=1, le=2**63 - 1, description="The last id of the previous page.")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> DeliveryPage:
    """Return what a webhook was told, the newest first, and how the last attempt of each went."""
    await find_webhook(session, id, actor=actor)
    found = await queries.list_deliveries(session, id, before=before, limit=limit + 1)
    shown = [DeliveryOut.model_validate(view, from_attributes=True) for view in found[:limit]]
    return DeliveryPage(deliveries=shown, next_before=shown[-1].id if len(found) > limit else None)
