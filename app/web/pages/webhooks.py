"""Webhooks, for admins: make one, see what was sent, delete it."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Path, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import UserError
from app.queries import webhooks as queries
from app.queries.saes import list_saes
from app.queries.sql.pg_safe import MAX_INTEGER
from app.services.webhooks import KINDS, create_webhook, find_webhook
from app.web.dependencies import Actor, AppSettings, BeforeId, Session, require_admin
from app.web.rendering import render

router = APIRouter(dependencies=[Depends(require_admin)])

WebhookId = Annotated[int, Path(ge=1, le=MAX_INTEGER)]
_PAGE = 50


@router.get("/webhooks")
async def webhooks_page(request: Request, session: Session) -> HTMLResponse:
    """List webhooks, with the form that makes one."""
    return render(request, "webhooks/page.html", await _context(session))


@router.post("/webhooks")
async def make(
    request: Request,
    session: Session,
    settings: AppSettings,
    actor: Actor,
    url: Annotated[str, Form()] = "",
    sae: Annotated[str, Form()] = "",
    label_set: Annotated[str, Form()] = "",
    kinds: Annotated[list[str] | None, Form()] = None,
) -> HTMLResponse:
    """Make a webhook, and show its secret this once."""
    sent = {"url": url.strip(), "sae": sae, "label_set": label_set.strip(), "kinds": kinds or []}
    try:
        made, secret = await create_webhook(session, settings, actor=actor, **sent)  # type: ignore[arg-type]
    except UserError as error:
        context = await _context(session) | {"sent": sent, "error": str(error)}
        return render(request, "webhooks/page.html", context, status=error.status)
    response = render(request, "webhooks/page.html", await _context(session) | {"made": made, "secret": secret})
    response.headers["Cache-Control"] = "no-store"
    return response


@router.get("/webhooks/{id}")
async def webhook_page(request: Request, id: WebhookId, session: Session, before: BeforeId = None) -> HTMLResponse:
    """Show what a webhook was told, and how that went."""
    found = await queries.list_deliveries(session, id, before=before, limit=_PAGE + 1)
    shown = found[:_PAGE]
    context = {
        "webhook": await find_webhook(session, id),
        "deliveries": shown,
        "more": f"/webhooks/{id}?before={shown[-1].id}" if len(found) > _PAGE else None,
    }
    return render(request, "webhooks/deliveries.html", context)


@router.post("/webhooks/{id}/delete")
async def delete(id: WebhookId, session: Session) -> RedirectResponse:
    """Delete a webhook."""
    await find_webhook(session, id)
    await queries.delete_webhook(session, id)
    return RedirectResponse("/webhooks", status_code=303)


async def _context(session: AsyncSession) -> dict[str, Any]:
    return {
        "webhooks": await queries.list_webhooks(session),
        "saes": await list_saes(session),
        "kinds": KINDS,
        "sent": {"url": "", "sae": "", "label_set": "", "kinds": KINDS},
        "error": "",
        "made": None,
        "secret": "",
    }
