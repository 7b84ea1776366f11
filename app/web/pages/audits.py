"""Bias audits: all of them, one with its report, and the form that starts one."""

from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import UserError
from app.queries import audits as queries
from app.queries.runs import has_worker
from app.queries.saes import list_saes
from app.runs.spec import parse_params, spec_of
from app.runs.submit import request_run
from app.services.audits import delete_audit, find_audit
from app.services.saes import find_sae
from app.web.components.audit_sets import audit_sets
from app.web.components.audit_view import audit_page, audit_report
from app.web.dependencies import Actor, AppSettings, BeforeId, Session, Submitter
from app.web.rendering import render
from app.web.reports import report

router = APIRouter()

_PER_PAGE = 50

Text = Annotated[str, Form()]


@router.get("/audits")
async def all_audits(
    request: Request,
    session: Session,
    sae: Annotated[str | None, Query(description="Only audits of this SAE.")] = None,
    before: BeforeId = None,
) -> HTMLResponse:
    """Show all audits, newest first."""
    detail = None if sae is None else await find_sae(session, sae)
    found, following = await queries.list_audits(
        session, limit=_PER_PAGE, before=before, sae_id=None if detail is None else detail.id
    )
    query = {"sae": sae} if sae else {}
    more = f"/audits?{urlencode({**query, 'before': following})}" if following else None
    return render(request, "audits/list.html", {"audits": found, "sae": detail, "before": before, "more": more})


@router.get("/audits/new")
async def new_audit(request: Request, session: Session, _actor: Submitter, sae: str = "", on: str = "") -> HTMLResponse:
    """Show the form: choose an SAE and a set."""
    return await _form(request, session, {"sae": sae, "on": on})


@router.post("/audits")
async def start(
    request: Request, session: Session, settings: AppSettings, actor: Submitter, sae: Text = "", on: Text = ""
) -> Response:
    """Queue an audit. What is wrong is answered with the form as it was sent."""
    spec = spec_of("audit")
    try:
        params = parse_params(spec, {"sae": sae, "on": on})
        run = await request_run(session, spec, params, settings=settings, actor=actor)
    except UserError as error:
        return await _form(request, session, {"sae": sae, "on": on}, error)
    return RedirectResponse(f"/runs/{run.id}", status_code=303)


@router.get("/audits/{id}")
async def one_audit(request: Request, id: int, session: Session) -> HTMLResponse:
    """Show what an audit found."""
    page = await audit_page(session, await find_audit(session, id))
    return render(request, "audits/page.html", {"page": page, "linked": True})


@router.get("/audits/{id}/report.html")
async def report_file(id: int, session: Session) -> HTMLResponse:
    """Return the same as one file that needs nothing else."""
    return report(*audit_report(await audit_page(session, await find_audit(session, id))))


@router.get("/audits/{id}/delete")
async def ask_to_delete(request: Request, id: int, session: Session, actor: Actor) -> HTMLResponse:
    """Ask before an audit is deleted."""
    audit = await find_audit(session, id)
    actor.check_change(audit.owner_id, "This audit", audit.owner)
    return render(request, "audits/delete.html", {"audit": audit})


@router.post("/audits/{id}/delete")
async def delete(id: int, session: Session, actor: Actor) -> Response:
    """Delete an audit."""
    await delete_audit(session, id, actor=actor)
    return RedirectResponse("/audits", status_code=303)


async def _form(
    request: Request, session: AsyncSession, typed: dict[str, str], error: UserError | None = None
) -> HTMLResponse:
    context = {
        "saes": [sae for sae in await list_saes(session) if sae.has_weights],
        "sets": await audit_sets(session),
        "typed": typed,
        "error": error,
        "idle": not await has_worker(session),
    }
    return render(request, "audits/new.html", context, status=200 if error is None else error.status)
