"""Webhooks, for admins, and of monitors for whoever may change them: make one, see what was sent, delete it."""

from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Path, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import UserError
from app.queries import webhooks as queries
from app.queries.saes import list_saes
from app.queries.sql.pg_safe import MAX_INTEGER
from app.services import actors
from app.services.monitors import find_monitor
from app.services.webhooks import KINDS, MONITOR_KINDS, create_webhook, find_webhook, list_webhooks
from app.web.dependencies import Actor, AppSettings, BeforeId, Session
from app.web.rendering import render

router = APIRouter()

WebhookId = Annotated[int, Path(ge=1, le=MAX_INTEGER)]
_PAGE = 50


@router.get("/webhooks")
async def webhooks_page(
    request: Request, session: Session, actor: Actor, monitor: Annotated[str, Query(max_length=200)] = ""
) -> HTMLResponse:
    """List webhooks, all or those of a monitor, with the form that makes one."""
    return render(request, "webhooks/page.html", await _context(session, actor, monitor))


@router.post("/webhooks")
async def make(
    request: Request,
    session: Session,
    settings: AppSettings,
    actor: Actor,
    url: Annotated[str, Form()] = "",
    sae: Annotated[str, Form()] = "",
    label_set: Annotated[str, Form()] = "",
    monitor: Annotated[str, Form()] = "",
    kinds: Annotated[list[str] | None, Form()] = None,
) -> HTMLResponse:
    """Make a webhook, and show its secret this once."""
    sent = {"url": url.strip(), "sae": sae, "label_set": label_set.strip(), "kinds": kinds or []}
    try:
        made, secret = await create_webhook(session, settings, actor=actor, monitor=monitor, **sent)  # type: ignore[arg-type]
    except UserError as error:
        context = await _context(session, actor, monitor) | {"sent": sent, "error": str(error)}
        return render(request, "webhooks/page.html", context, status=error.status)
    context = await _context(session, actor, monitor) | {"made": made, "secret": secret}
    response = render(request, "webhooks/page.html", context)
    response.headers["Cache-Control"] = "no-store"
    return response


@router.get("/webhooks/{id}")
async def webhook_page(
    request: Request, id: WebhookId, session: Session, actor: Actor, before: BeforeId = None
) -> HTMLResponse:
    """Show what a webhook was told, and how that went."""
    webhook = await find_webhook(session, id, actor=actor)
    found = await queries.list_deliveries(session, id, before=before, limit=_PAGE + 1)
    shown = found[:_PAGE]
    context = {
        "webhook": webhook,
        "deliveries": shown,
        "more": f"/webhooks/{id}?before={shown[-1].id}" if len(found) > _PAGE else None,
    }
    return render(request, "webhooks/deliveries.html", context)


@router.post("/webhooks/{id}/delete")
async def delete(id: WebhookId, session: Session, actor: Actor) -> RedirectResponse:
    """Delete a webhook."""
    found = await find_webhook(session, id, actor=actor)
    await queries.delete_webhook(session, id)
    back = f"/webhooks?{urlencode({'monitor': found.monitor})}" if found.monitor_id is not None else "/webhooks"
    return RedirectResponse(back, status_code=303)


async def _context(session: AsyncSession, actor: actors.Actor, monitor: str) -> dict[str, Any]:
    """Return what the page shows: of the monitor, if it is given, for whoever may change it."""
    of = await find_monitor(session, monitor) if monitor else None
    if of is not None:
        actor.check_change(of.owner_id, "This monitor", of.owner)
    kinds = KINDS if of is None else MONITOR_KINDS
    return {
        "webhooks": await list_webhooks(session, actor=actor, monitor=of.name if of else ""),
        "monitor": of,
        "saes": await list_saes(session) if actor.role >= actors.Role.admin else [],
        "kinds": kinds,
        "sent": {"url": "", "sae": "", "label_set": "", "kinds": kinds},
        "error": "",
        "made": None,
        "secret": "",
    }
