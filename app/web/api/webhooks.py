"""Webhooks: make, list, delete, and see what was sent. For admins."""

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Path, Query
from pydantic import BaseModel, ConfigDict, Field

from app.problems import documented
from app.queries import webhooks as queries
from app.queries.sql.pg_safe import MAX_INTEGER
from app.queries.webhooks import WebhookView
from app.services.webhooks import MAX_URL, create_webhook, find_webhook
from app.web.dependencies import Actor, AppSettings, Session, require_admin

router = APIRouter(prefix="/api/v1", tags=["Webhooks"], dependencies=[Depends(require_admin)])

WebhookId = Annotated[int, Path(ge=1, le=MAX_INTEGER)]
Kind = Literal["label", "decision", "comment"]


class WebhookOut(BaseModel):
    """A webhook, without its secret."""

    id: int
    url: str
    kinds: list[Kind]
    sae: str
    set: str | None
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
    """All webhooks, the newest first."""

    webhooks: list[WebhookOut]


class WebhookIn(BaseModel):
    """A webhook to make."""

    model_config = ConfigDict(extra="forbid")

    url: Annotated[str, Field(max_length=MAX_URL, examples=["https://example.org/hook"])]
    sae: Annotated[str, Field(description="The SAE whose labels it is told of.")]
    set: Annotated[str, Field(description="Only acts in this label set.")] = ""
    kinds: list[Kind] = ["label", "decision", "comment"]


class DeliveryOut(BaseModel):
    """One act that a webhook is told of, and how the last attempt went."""

    id: int
    act: str
    feature: int | None
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
async def list_webhooks(session: Session) -> WebhookList:
    """Return all webhooks, without their secrets."""
    return WebhookList(webhooks=[WebhookOut.of(view) for view in await queries.list_webhooks(session)])


@router.post("/webhooks", summary="Make a webhook", status_code=201, responses=documented(404))
async def post_webhook(webhook: WebhookIn, session: Session, settings: AppSettings, actor: Actor) -> NewWebhook:
    """Send labels, decisions and comments of an SAE, or of one of its sets, to an address.

    Each message is signed with the secret, as Standard Webhooks has it; the answer shows the secret once. Private
    addresses are refused, unless a setting allows them.
    """
    made, secret = await create_webhook(
        session, settings, actor=actor, url=webhook.url, kinds=webhook.kinds, sae=webhook.sae, label_set=webhook.set
    )
    return NewWebhook(**WebhookOut.of(made).model_dump(), secret=secret)


@router.delete("/webhooks/{id}", summary="Delete a webhook", status_code=204, responses=documented(404))
async def delete_webhook(id: WebhookId, session: Session) -> None:
    """Delete a webhook, with the record of its deliveries; what waits is not sent."""
    await find_webhook(session, id)
    await queries.delete_webhook(session, id)


@router.get("/webhooks/{id}/deliveries", summary="Deliveries of a webhook", responses=documented(404))
async def list_deliveries(
    id: WebhookId,
    session: Session,
    before: Annotated[int | None, Query(ge=1, le=2**63 - 1, description="The last id of the previous page.")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> DeliveryPage:
    """Return what a webhook was told, the newest first, and how the last attempt of each went."""
    await find_webhook(session, id)
    found = await queries.list_deliveries(session, id, before=before, limit=limit + 1)
    shown = [DeliveryOut.model_validate(view, from_attributes=True) for view in found[:limit]]
    return DeliveryPage(deliveries=shown, next_before=shown[-1].id if len(found) > limit else None)
