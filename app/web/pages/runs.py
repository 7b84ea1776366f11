"""Runs: the list, one run live, and the events that keep its page up to date.

Events of `/runs/{id}/events` (server-sent): `progress` or `card`, a fragment whenever it changed; `curves`, the charts,
once there are points to draw; `metrics`, further points as JSON; `end`, after which the browser closes the connection.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Request
from fastapi.responses import HTMLResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.db import transaction
from app.errors import Unavailable
from app.queries.runs import ACTIVE, MetricPoint, RunView, get_run, list_runs, metrics
from app.queries.sql.pg_safe import MAX_INTEGER
from app.runs.spec import is_known, spec_of
from app.services.runs import find_run
from app.web import rendering
from app.web.components import figures
from app.web.components.formatting import count, significant
from app.web.components.run_card import MOST_LIVE, card, stage_view
from app.web.dependencies import BeforeId, Session
from app.web.rendering import render

router = APIRouter()

_PAGE = 50
_SECONDS_BETWEEN_LOOKS = 1.0
_SHOWN_ELSEWHERE = {"seconds", "saes", "notes", "intervals"}
"""Parts of a result that other sections or pages show: seconds of stages, tables, notes, intervals."""

View = Literal["progress", "card"]
RunId = Annotated[int, Path(ge=1, le=MAX_INTEGER)]


@router.get("/runs")
async def run_list(request: Request, session: Session, before: BeforeId = None) -> HTMLResponse:
    """Show all runs, newest first."""
    runs, following = await list_runs(session, limit=_PAGE, before=before)
    live = [run for run in runs if run.state in ACTIVE][:MOST_LIVE]
    context = {
        "active": [card(run) for run in live],
        "cards": [card(run) for run in runs if run not in live],
        "more": f"/runs?before={following}" if following else None,
        "before": before,
    }
    return render(request, "runs/list.html", context)


@router.get("/runs/{run_id}")
async def run_page(request: Request, run_id: RunId, session: Session) -> HTMLResponse:
    """Show one run: stages, curves and result."""
    run = await find_run(session, run_id)
    points = await metrics(session, run_id)
    result = {name: value for name, value in (run.result or {}).items() if name not in _SHOWN_ELSEWHERE}
    context = {
        **_progress(run),
        "curves": figures.training_curves(points),
        "live": run.state in ACTIVE,
        "after": points[-1].step if points else -1,
        "saes": (run.result or {}).get("saes", []),
        "notes": (run.result or {}).get("notes", []),
        "results": _facts(_result_order(run.kind, result)),
        "params": _facts(_params_order(run.kind, run.params)),
    }
    return render(request, "runs/page.html", context)


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
    async for event in run_events(request.app.state.sessionmaker, run_id, view, after):
        yield event


async def run_events(
    sessions: async_sessionmaker[AsyncSession], run_id: int, view: View, after: int
) -> AsyncIterator[ServerSentEvent]:
    """Yield the events of one run, which is looked at once per second.

    Each look has a session of its own: a page that stays open must not hold a connection.
    """
    sent = ""
    while True:
        try:
            async with transaction(sessions) as session:
                run = await get_run(session, run_id)
                points = await metrics(session, run_id, after_step=after) if view == "progress" else []
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
        fragment = _fragment(run, view)
        if fragment != sent:
            sent = fragment
            yield ServerSentEvent(event=view, raw_data=fragment)
        if run.state not in ACTIVE:
            break
        await asyncio.sleep(_SECONDS_BETWEEN_LOOKS)
    yield ServerSentEvent(event="end", raw_data="")


def _fragment(run: RunView, view: View) -> str:
    if view == "card":
        return rendering.text("runs/_card.html", {"run": card(run)})
    return rendering.text("runs/_progress.html", _progress(run))


def _progress(run: RunView) -> dict[str, Any]:
    return {"run": run, "stages": [stage_view(stage) for stage in run.stages]}


def _points(points: list[MetricPoint]) -> str:
    return json.dumps([{"step": point.step, "values": dict(point.values)} for point in figures.downsample(points)])


def _params_order(kind: str, params: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return parameters in the order of their declaration, which the database does not keep."""
    if not is_known(kind):
        return params
    declared = [name for name in spec_of(kind).params.model_fields if name in params]
    return {name: params[name] for name in [*declared, *(params.keys() - set(declared))]}


def _result_order(kind: str, result: Mapping[str, Any]) -> Mapping[str, Any]:
    return spec_of(kind).order(result) if is_known(kind) else result


def _facts(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return parameters or a result as names and values, with one level of nesting and without empty values."""
    return [
        (name.replace("_", " "), _format_value(value)) for name, value in values.items() if value not in (None, {}, [])
    ]


def _format_value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name.replace('_', ' ')} {_format_value(inner)}" for name, inner in value.items())
    if isinstance(value, list):
        return ", ".join(_format_value(inner) for inner in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return value
    if isinstance(value, int):
        return count(value)
    return significant(value) if isinstance(value, float) else json.dumps(value)
