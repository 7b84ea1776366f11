"""Runs: the list, one run live, the events that keep its page up to date, and how to cancel and retry it.

Events of `/runs/{id}/events` (server-sent): `progress` or `card`, a fragment whenever it changed; `curves`, the charts,
once there are points to draw; `metrics`, further points as JSON; `end`, after which the browser closes the connection.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.db import transaction
from app.errors import Unavailable
from app.queries.runs import ACTIVE, MetricPoint, RunState, RunView, get_run, has_worker, list_runs, metrics
from app.queries.sql.pg_safe import MAX_INTEGER
from app.runs.spec import is_known, spec_of, specs
from app.runs.submit import cancel_run, check_cancel, check_retry, retry_run
from app.services.runs import find_run
from app.web import rendering
from app.web.components import figures, monitor_text
from app.web.components.formatting import count, significant
from app.web.components.run_card import MOST_LIVE, card, stage_view
from app.web.components.run_form import address_of
from app.web.dependencies import BeforeId, Session, Submitter, may_submit
from app.web.rendering import render

router = APIRouter()

_PAGE = 50
_SECONDS_BETWEEN_LOOKS = 1.0
_STATES: tuple[RunState, ...] = get_args(RunState)
_SHOWN_ELSEWHERE = {"seconds", "saes", "notes", "intervals", "audit", "comparison", "page"}
"""Parts of a result that other sections or pages show: seconds of stages, tables, notes, intervals, and links."""

View = Literal["progress", "card"]
RunId = Annotated[int, Path(ge=1, le=MAX_INTEGER)]


@dataclass(frozen=True, slots=True)
class Choice:
    """A link that filters the list."""

    name: str
    href: str
    current: bool


@router.get("/runs")
async def run_list(
    request: Request,
    session: Session,
    state: RunState | None = None,
    kind: Annotated[str | None, Query(max_length=100)] = None,
    before: BeforeId = None,
) -> HTMLResponse:
    """Show runs, newest first: all, or those in one state and of one kind."""
    runs, following = await list_runs(session, state=state, kind=kind, limit=_PAGE, before=before)
    live = sorted((run for run in runs if run.state in ACTIVE), key=_next_first)[:MOST_LIVE]
    kinds = dict.fromkeys([*(spec.kind for spec in specs()), *([kind] if kind else [])])
    context = {
        "active": [card(run) for run in live],
        "cards": [card(run) for run in runs if run not in live],
        "more": _address(state=state, kind=kind, before=following) if following else None,
        "newest": _address(state=state, kind=kind) if before else None,
        "filtered": bool(state or kind),
        "states": [Choice(name or "any", _address(state=name, kind=kind), name == state) for name in (None, *_STATES)],
        "kinds": [Choice(name or "any", _address(state=state, kind=name), name == kind) for name in (None, *kinds)],
        "idle": any(run.state == "queued" for run in runs) and not await has_worker(session),
    }
    return render(request, "runs/list.html", context)


def _next_first(run: RunView) -> tuple[bool, int]:
    """Sort what runs before what waits, and that by its turn."""
    return run.state == "queued", run.queue_position or 0


def _address(**parameters: str | int | None) -> str:
    """Return the address of the list with these parameters."""
    query = urlencode({name: value for name, value in parameters.items() if value is not None})
    return f"/runs?{query}" if query else "/runs"


@router.get("/runs/{run_id}")
async def run_page(request: Request, run_id: RunId, session: Session) -> HTMLResponse:
    """Show one run: stages, curves and result."""
    run = await find_run(session, run_id)
    points = await metrics(session, run_id)
    result = {name: value for name, value in (run.result or {}).items() if name not in _SHOWN_ELSEWHERE}
    context = {
        **await _progress(session, run),
        "again": address_of(run.kind, run.params),
        "curves": figures.training_curves(points),
        "live": run.state in ACTIVE,
        "trains": any(stage.name == "train" for stage in run.stages),
        "after": points[-1].step if points else -1,
        "saes": (run.result or {}).get("saes", []),
        "notes": _notes(run.result or {}),
        "results": _facts(_result_order(run.kind, result)),
        "params": _facts(_params_order(run.kind, run.params)),
    }
    return render(request, "runs/page.html", context)


def _notes(result: Mapping[str, Any]) -> list[str]:
    """Return what the result notes, with the SAE's name where a run has several."""
    own: list[str] = result.get("notes", [])
    return own + [f"{sae['sae']}: {note}" for sae in result.get("saes", []) for note in sae.get("notes", [])]


@router.get("/runs/{run_id}/cancel")
async def ask_cancel(request: Request, run_id: RunId, session: Session, _actor: Submitter) -> HTMLResponse:
    """Ask whether to cancel a run, and say what is lost and what is kept."""
    run = await find_run(session, run_id)
    check_cancel(run)
    return render(request, "runs/cancel.html", {"run": run, "card": card(run)})


@router.post("/runs/{run_id}/cancel")
async def cancel(run_id: RunId, session: Session, _actor: Submitter) -> Response:
    """Cancel a run."""
    await cancel_run(session, run_id)
    return RedirectResponse(f"/runs/{run_id}", status_code=303)


@router.get("/runs/{run_id}/retry")
async def ask_retry(request: Request, run_id: RunId, session: Session, _actor: Submitter) -> HTMLResponse:
    """Ask whether to retry a run, and say what is kept."""
    run = await find_run(session, run_id)
    check_retry(run)
    context = {"run": run, "done": [stage.title for stage in run.stages if stage.state == "done"]}
    return render(request, "runs/retry.html", {**context, "again": address_of(run.kind, run.params)})


@router.post("/runs/{run_id}/retry")
async def retry(run_id: RunId, session: Session, _actor: Submitter) -> Response:
    """Queue a run again."""
    await retry_run(session, run_id)
    return RedirectResponse(f"/runs/{run_id}", status_code=303)


async def _known_run(request: Request, run_id: RunId) -> int:
    """Return the id of a run that exists: a 404 is possible only before the stream starts."""
    async with transaction(request.app.state.sessionmaker) as session:
        return (await find_run(session, run_id)).id


@router.get("/runs/{run_id}/events", response_class=EventSourceResponse)
async def events(
    request: Request,
    run_id: Annotated[int, Depends(_known_run)],
    view: View = "progress",
    after: int = -1,
) -> AsyncIterator[ServerSentEvent]:
    """Send server-sent events until the run ends; `after` is the step of the last point that the page has."""
    buttons = may_submit(request)
    async for event in run_events(request.app.state.sessionmaker, run_id, view, after, buttons=buttons):
        yield event


async def run_events(
    sessions: async_sessionmaker[AsyncSession], run_id: int, view: View, after: int, *, buttons: bool = False
) -> AsyncIterator[ServerSentEvent]:
    """Yield the events of one run, which is looked at once per second; with `buttons` it can be cancelled.

    Each look has a session of its own: a page that stays open must not hold a connection.
    """
    sent = ""
    while True:
        try:
            async with transaction(sessions) as session:
                run = await get_run(session, run_id)
                points = await metrics(session, run_id, after_step=after) if view == "progress" else []
                fragment = "" if run is None else await _fragment(session, run, view, buttons=buttons)
        except Unavailable:
            return  # without an `end`: the browser connects again, and is told how the database is
        if run is None:
            break
        if points and after < 0:  # the page has no charts yet
            charts = rendering.text("runs/_curves.html", {"curves": figures.training_curves(points)})
            yield ServerSentEvent(event="curves", raw_data=charts)
        elif points:
            yield ServerSentEvent(event="metrics", raw_data=_points(points))
        after = points[-1].step if points else after
        if fragment != sent:
            sent = fragment
            yield ServerSentEvent(event=view, raw_data=fragment)
        if run.state not in ACTIVE:
            break
        await asyncio.sleep(_SECONDS_BETWEEN_LOOKS)
    yield ServerSentEvent(event="end", raw_data="")


async def _fragment(session: AsyncSession, run: RunView, view: View, *, buttons: bool) -> str:
    if view == "card":
        return rendering.text("runs/_card.html", {"run": card(run), "may_submit": buttons})
    return rendering.text("runs/_progress.html", {**await _progress(session, run), "may_submit": buttons})


async def _progress(session: AsyncSession, run: RunView) -> dict[str, Any]:
    idle = run.state == "queued" and not await has_worker(session)
    stages = [stage_view(stage) for stage in run.stages]
    made = spec_of(run.kind).page_of(run.result) if run.result and is_known(run.kind) else None
    return {"run": run, "stages": stages, "idle": idle, "forecast": card(run).forecast, "made": made}


def _points(points: list[MetricPoint]) -> str:
    return json.dumps([{"step": point.step, "values": dict(point.values)} for point in figures.downsample(points)])


def _params_order(kind: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return parameters in the order of their declaration, which the database does not keep."""
    if not is_known(kind):
        return params
    declared = [name for name in spec_of(kind).params.model_fields if name in params]
    return {name: params[name] for name in [*declared, *(params.keys() - set(declared))]}


def _result_order(kind: str, result: Mapping[str, Any]) -> Mapping[str, Any]:
    if kind == "monitor":
        return monitor_text.brief_result(result)
    return spec_of(kind).order(result) if is_known(kind) else result


_LONGEST = 1_000
"""Characters of a value that is shown whole: paths are, vectors are not."""


def _facts(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return parameters or a result as names and values, with one level of nesting and without empty values."""
    return [
        (name.replace("_", " "), _format_value(value)) for name, value in values.items() if not _is_empty_or_rows(value)
    ]


def _is_empty_or_rows(value: Any) -> bool:
    """True for nothing, and for rows of a table, which another page shows."""
    return value in (None, {}, []) or (isinstance(value, list) and isinstance(value[0], Mapping))


def _format_value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name.replace('_', ' ')} {_format_value(inner)}" for name, inner in value.items())
    if isinstance(value, list):  # of whole numbers, these name features, and count nothing
        return ", ".join(str(inner) if type(inner) is int else _format_value(inner) for inner in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value if len(value) <= _LONGEST else f"{value[:20]}… ({len(value):,} characters)"
    if isinstance(value, int):
        return count(value)
    return significant(value) if isinstance(value, float) else json.dumps(value)
