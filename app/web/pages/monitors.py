"""Monitors: all of them; making one in three steps; one with what it does, its alerts, and a box to try it."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Path, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.datastructures import UploadFile

from app.errors import UserError
from app.queries import monitors as queries
from app.queries.activity import list_activity
from app.queries.monitors import MonitorView
from app.queries.saes import list_saes
from app.queries.sql.pg_safe import MAX_INTEGER
from app.queries.text_sets import list_text_sets
from app.runs.spec import parse_params, spec_of
from app.runs.submit import request_run
from app.services.monitor_checks import CheckedText, check_texts
from app.services.monitor_recipes import RECIPES
from app.services.monitors import (
    acknowledge,
    candidate_of,
    change_monitor,
    delete_monitor,
    drift_of,
    find_monitor,
    may_acknowledge,
    texts_needed,
)
from app.services.texts import unix_lines
from app.services.vectors import pack_vector, read_vector
from app.web.components import monitor_text
from app.web.components.glossary import ACTS
from app.web.components.snippets import endpoint_snippet
from app.web.dependencies import Actor, AppSettings, BeforeId, Inference, Session, may_submit, site_address
from app.web.rendering import render, wants_fragment

router = APIRouter()

_PER_PAGE = 50
_ALERTS = 20
_ACTS = 10
_FORM = (
    "name",
    "sae",
    "positive",
    "benign",
    "positive_elsewhere",
    "benign_elsewhere",
    "fpr",
    "tokens",
    "pool",
    "features",
    "direction",
    "direction_name",
)
Text = Annotated[str, Form()]
MonitorId = Annotated[str, Path(description="Name or number of the monitor.")]


@router.get("/monitors")
async def all_monitors(request: Request, session: Session, before: BeforeId = None) -> HTMLResponse:
    """Show all monitors, newest first."""
    found, following = await queries.list_monitors(session, limit=_PER_PAGE, before=before)
    context = {
        "monitors": [(monitor, await drift_of(session, monitor)) for monitor in found],
        "before": before,
        "more": f"/monitors?before={following}" if following else None,
    }
    return render(request, "monitors/list.html", context)


@router.get("/monitors/new")
async def new_monitor(
    request: Request, session: Session, recipe: str = "", sae: str = "", positive: str = "", benign: str = ""
) -> HTMLResponse:
    """Show the first step: an SAE, and the texts, which a link may give."""
    sent = dict.fromkeys(_FORM, "") | {"fpr": "0.01", "tokens": "all", "pool": "max"}
    sent |= {"sae": sae, "positive": positive, "benign": benign}
    if recipe in RECIPES:
        known = RECIPES[recipe]
        sent |= {"name": known.name, "positive": known.positive, "benign": known.benign, "fpr": f"{known.fpr:g}"}
        sent |= dict(zip(("positive_elsewhere", "benign_elsewhere"), known.elsewhere, strict=True))
    return await _form(request, session, sent)


@router.post("/monitors")
async def make(request: Request, session: Session, settings: AppSettings, actor: Actor) -> Response:
    """Queue the run that compares candidates. What is wrong is answered with the form as it was sent."""
    form = await request.form()
    sent = {name: str(form.get(name, "")).strip() for name in _FORM}
    try:
        file = form.get("direction_file")
        if isinstance(file, UploadFile) and file.filename:
            sent |= {"direction": pack_vector(read_vector(await file.read())), "direction_name": file.filename[:80]}
        spec = spec_of("monitor")
        given = {name: value for name, value in sent.items() if value and name != "direction_name"}
        params = parse_params(spec, given)
        run = await request_run(session, spec, params, settings=settings, actor=actor)
    except UserError as error:
        return await _form(request, session, sent, error)
    return RedirectResponse(f"/runs/{run.id}", status_code=303)


@router.get("/monitors/{id}/candidates")
async def candidates(request: Request, id: MonitorId, session: Session) -> HTMLResponse:
    """Show the second and third step: all candidates side by side, and the choice of one."""
    return await _candidates(request, await find_monitor(session, id))


@router.get("/monitors/{id}")
async def one_monitor(
    request: Request,
    id: MonitorId,
    session: Session,
    before: Annotated[int | None, Query(ge=1, le=2**63 - 1)] = None,
    run: Annotated[int | None, Query(ge=1, le=MAX_INTEGER)] = None,
    acknowledged: Literal["no"] | None = None,
) -> HTMLResponse:
    """Show a monitor; its alerts are all, those of a scan, or those that nobody has acknowledged."""
    monitor = await find_monitor(session, id)
    return await _page(request, session, monitor, before=before, run=run, acknowledged=acknowledged)


@router.get("/monitors/{id}/new")
async def newer_alerts(
    request: Request, id: MonitorId, session: Session, after: Annotated[int, Query(ge=0, le=2**63 - 1)] = 0
) -> HTMLResponse:
    """Say how many alerts are newer than those of a page that is open."""
    monitor = await find_monitor(session, id)
    newer = await queries.count_alerts_after(session, monitor.id, after)
    return render(request, "monitors/_newer.html", {"monitor": monitor, "newer": newer})


@router.post("/monitors/{id}")
async def change(
    request: Request,
    id: MonitorId,
    session: Session,
    actor: Actor,
    state: Annotated[Literal["ready", "paused"] | None, Form()] = None,
    keep_text: Annotated[Literal["yes", "no"] | None, Form()] = None,
    notes: Annotated[str | None, Form()] = None,
    candidate: Annotated[str | None, Form()] = None,
) -> Response:
    """Change a monitor's state, notes or candidate, or whether it keeps texts."""
    monitor = await find_monitor(session, id)
    keeps = None if keep_text is None else keep_text == "yes"
    try:
        await change_monitor(
            session, monitor, actor=actor, state=state, keep_text=keeps, notes=notes, candidate=candidate
        )
    except UserError as error:
        if candidate is not None:
            return await _candidates(request, monitor, error)
        return await _page(request, session, monitor, error=error)
    return RedirectResponse(f"/monitors/{monitor.name}", status_code=303)


@router.post("/monitors/{id}/check")
async def check(
    request: Request, id: MonitorId, session: Session, inference: Inference, text: Text = ""
) -> HTMLResponse:
    """Score a text, and show which tokens make the score."""
    monitor = await find_monitor(session, id)
    text = unix_lines(text)
    try:
        (checked,) = await check_texts(session, inference, monitor, [text])
    except UserError as error:
        return await _page(request, session, monitor, error=error, text=text)
    return await _page(request, session, await find_monitor(session, monitor.name), text=text, checked=checked)


@router.post("/monitors/{id}/alerts/{alert}")
async def acknowledge_alert(
    id: MonitorId, alert: Annotated[int, Path(ge=1, le=2**63 - 1)], session: Session, actor: Actor, note: Text = ""
) -> Response:
    """Note that somebody has seen an alert."""
    monitor = await find_monitor(session, id)
    await acknowledge(session, monitor, alert, actor=actor, note=note)
    return RedirectResponse(f"/monitors/{monitor.name}#alerts", status_code=303)


@router.post("/monitors/{id}/acknowledge")
async def acknowledge_shown(
    id: MonitorId,
    session: Session,
    actor: Actor,
    alert: Annotated[list[Annotated[int, Field(ge=1, le=2**63 - 1)]], Form(min_length=1, max_length=_ALERTS)],
) -> Response:
    """Note that somebody has seen several alerts."""
    monitor = await find_monitor(session, id)
    for one in alert:
        await acknowledge(session, monitor, one, actor=actor, note="")
    return RedirectResponse(f"/monitors/{monitor.name}#alerts", status_code=303)


@router.get("/monitors/{id}/delete")
async def ask_to_delete(request: Request, id: MonitorId, session: Session, actor: Actor) -> HTMLResponse:
    """Ask before a monitor is deleted."""
    monitor = await find_monitor(session, id)
    actor.check_change(monitor.owner_id, "This monitor", monitor.owner)
    return render(request, "monitors/delete.html", {"monitor": monitor})


@router.post("/monitors/{id}/delete")
async def delete(id: MonitorId, session: Session, actor: Actor) -> Response:
    """Delete a monitor."""
    await delete_monitor(session, await find_monitor(session, id), actor=actor)
    return RedirectResponse("/monitors", status_code=303)


async def _form(
    request: Request, session: AsyncSession, sent: dict[str, str], error: UserError | None = None
) -> HTMLResponse:
    sets, _ = await list_text_sets(session, limit=200)
    sides = [side for one in sets for side in (one.name, *(f"{one.name}:{label}" for label in one.counts.labels))]
    context = {
        "sent": sent,
        "error": error,
        "saes": [sae for sae in await list_saes(session) if sae.has_weights],
        "sides": sides,
        "recipes": RECIPES,
        "tokens": monitor_text.TOKENS,
        "pools": monitor_text.POOLS,
        "needed": texts_needed(0.01),
    }
    return render(request, "monitors/new.html", context, status=200 if error is None else error.status)


async def _candidates(request: Request, monitor: MonitorView, error: UserError | None = None) -> HTMLResponse:
    listed = monitor.figures["candidates"]
    best = {monitor.candidate, monitor.figures["best_features"], monitor.figures["best_baseline"]}
    drawn = [one for one in listed if one["name"] in best]
    context = {
        "monitor": monitor,
        "candidates": listed,
        "used": candidate_of(monitor),
        "cautions": monitor_text.cautions([one for one in listed if one["runs"]]),
        "rates": monitor_text.resolved_rates(listed),
        "missing": [rate for rate in monitor_text.LOW_RATES if rate not in monitor_text.resolved_rates(listed)],
        "roc": monitor_text.roc_chart(drawn),
        "error": error,
    }
    return render(request, "monitors/candidates.html", context, status=200 if error is None else error.status)


async def _page(
    request: Request,
    session: AsyncSession,
    monitor: MonitorView,
    *,
    before: int | None = None,
    run: int | None = None,
    acknowledged: Literal["no"] | None = None,
    error: UserError | None = None,
    text: str = "",
    checked: CheckedText | None = None,
) -> HTMLResponse:
    newest = await queries.newest_alert(session, monitor.id)
    alerts, following = await queries.list_alerts(
        session, monitor.id, limit=_ALERTS, before=before, run_id=run, unacknowledged=acknowledged == "no"
    )
    days = await queries.rates_by_day(session, monitor.id)
    drift = await drift_of(session, monitor)
    chosen = {name: value for name, value in (("run", run), ("acknowledged", acknowledged)) if value}
    address = f"/monitors/{monitor.name}"
    context: dict[str, Any] = {
        "monitor": monitor,
        "used": candidate_of(monitor),
        "better": [
            one
            for one in monitor.figures["candidates"]
            if one["name"] == monitor.figures["best_baseline"] and one["name"] != monitor.candidate
        ],
        "alerts": alerts,
        "newest": newest,
        "newer": 0,
        "is_shown_anew": wants_fragment(request),  # the link that asked is gone then, and with it the focus
        "acts": await list_activity(session, reader=request.state.actor.reader, monitor_id=monitor.id, limit=_ACTS),
        "words": ACTS,
        "run": run,
        "acknowledged": acknowledged,
        "all_alerts": _alerts_address(address, chosen | {"acknowledged": None}),
        "unacknowledged_alerts": _alerts_address(address, chosen | {"acknowledged": "no"}),
        "to_acknowledge": [one.id for one in alerts if one.acknowledged_by is None],
        "more": _alerts_address(address, chosen | {"before": following}) if following else None,
        "days": monitor_text.rate_chart(days, monitor) if days else None,
        "drift": drift,
        "drift_words": monitor_text.drift_words(drift, monitor),
        "error": error,
        "text": text,
        "checked": checked,
        "may_acknowledge": may_acknowledge(request.state.actor),
        "may_scan": may_submit(request),
        "endpoint_snippet": endpoint_snippet(site_address(request), monitor.model, monitor.name),
    }
    return render(request, "monitors/page.html", context, status=200 if error is None else error.status)


def _alerts_address(address: str, chosen: Mapping[str, Any]) -> str:
    query = urlencode({name: value for name, value in chosen.items() if value is not None})
    return f"{address}?{query}#alerts" if query else f"{address}#alerts"
