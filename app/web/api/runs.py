"""Runs: submit, list, look at, cancel and retry them."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, Field

from app.problems import documented
from app.queries import runs as queries
from app.queries.runs import RunState, RunView, StageState
from app.queries.sql.pg_safe import MAX_INTEGER
from app.runs import submit
from app.runs.spec import parse_params, spec_of, specs
from app.runs.submit import request_run
from app.services.runs import find_run
from app.web.dependencies import AppSettings, BeforeId, Session, Submitter

router = APIRouter(prefix="/api/v1/runs", tags=["Runs"])

_DEFAULT_LIMIT = 50


class StageOut(BaseModel):
    """One stage of a run."""

    name: str
    title: str
    state: StageState
    done: int
    total: int
    unit: str
    seconds: float
    started_at: datetime | None
    expected: Annotated[float | None, Field(description="Seconds it will take in all, by the speed of this machine.")]


class RunOut(BaseModel):
    """One piece of long work."""

    id: int
    kind: Annotated[str, Field(description="A kind that GET /api/v1/runs/kinds lists.", examples=["train"])]
    title: str
    state: RunState
    sae: Annotated[str | None, Field(description="Slug of the run's SAE, once it exists.")]
    stages: list[StageOut]
    error: Annotated[str | None, Field(description="Reason of the failure, and the remedy; why a run still waits.")]
    queue_position: Annotated[int | None, Field(description="1 for the run that is next; null unless it waits.")]
    worker: Annotated[str | None, Field(description="Host and process that does it, or did.")]
    created_by: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    updated_at: datetime


class RunDetailOut(RunOut):
    """One piece of long work with its parameters and its result."""

    params: dict[str, Any]
    result: dict[str, Any] | None


class RunList(BaseModel):
    """One page of runs, newest first."""

    runs: list[RunOut]
    next_cursor: str | None


class RunKindOut(BaseModel):
    """A kind of run."""

    kind: str
    summary: str
    params: Annotated[dict[str, Any], Field(description="JSON schema of its parameters.")]


class RunKinds(BaseModel):
    """All kinds of run."""

    kinds: list[RunKindOut]


class RunIn(BaseModel):
    """A run to submit."""

    kind: Annotated[str, Field(description="A kind that GET /api/v1/runs/kinds lists.", examples=["index"])]
    params: Annotated[
        dict[str, Any],
        Field(
            description="Its parameters, by the schema that GET /api/v1/runs/kinds gives for its kind.",
            examples=[{"sae": "smollm2-135m-l9-batchtopk-4096", "corpus": "wikipedia-summaries"}],
        ),
    ] = {}


RunId = Annotated[int, Path(ge=1, le=MAX_INTEGER)]


@router.post("", status_code=202, summary="Submit a run", responses=documented(404, 409))
async def submit_run(
    body: RunIn, session: Session, settings: AppSettings, actor: Submitter, response: Response
) -> RunDetailOut:
    """Queue a run for the workers. A run with the same parameters that has not ended is returned instead."""
    spec = spec_of(body.kind)
    run = await request_run(session, spec, parse_params(spec, body.params), settings=settings, actor=actor)
    response.headers["Location"] = f"/api/v1/runs/{run.id}"
    return _detail(run)


@router.get("", summary="List runs", responses=documented())
async def list_runs(
    session: Session,
    state: Annotated[RunState | None, Query(description="Only runs in this state.")] = None,
    kind: Annotated[str | None, Query(max_length=100, description="Only runs of this kind.")] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = _DEFAULT_LIMIT,
    cursor: BeforeId = None,
) -> RunList:
    """Return runs, newest first."""
    found, following = await queries.list_runs(session, state=state, kind=kind, limit=limit, before=cursor)
    return RunList(runs=[RunOut(**_common(run)) for run in found], next_cursor=str(following) if following else None)


@router.get("/kinds", summary="Kinds of run", responses=documented())
async def list_kinds() -> RunKinds:
    """Return every kind of run, with its parameters."""
    return RunKinds(
        kinds=[
            RunKindOut(kind=spec.kind, summary=spec.summary, params=spec.params.model_json_schema()) for spec in specs()
        ]
    )


@router.get("/{id}", summary="One run", responses=documented(404))
async def get_run(id: RunId, session: Session) -> RunDetailOut:
    """Return one run."""
    return _detail(await find_run(session, id))


@router.post("/{id}/cancel", summary="Cancel a run", responses=documented(404, 409))
async def cancel_run(id: RunId, session: Session, _actor: Submitter) -> RunDetailOut:
    """Stop a run that waits or runs. What it has finished is kept, and a retry continues from there."""
    return _detail(await submit.cancel_run(session, id))


@router.post("/{id}/retry", status_code=202, summary="Retry a run", responses=documented(404, 409))
async def retry_run(id: RunId, session: Session, _actor: Submitter) -> RunDetailOut:
    """Queue a run again that failed or was cancelled. It continues from what it left."""
    return _detail(await submit.retry_run(session, id))


def _detail(run: RunView) -> RunDetailOut:
    return RunDetailOut(**_common(run), params=dict(run.params), result=dict(run.result) if run.result else None)


def _common(run: RunView) -> dict[str, Any]:
    return {
        "id": run.id,
        "kind": run.kind,
        "title": run.title,
        "state": run.state,
        "sae": run.sae_slug,
        "stages": [StageOut.model_validate(stage, from_attributes=True) for stage in run.stages],
        "error": run.error,
        "queue_position": run.queue_position,
        "worker": run.worker,
        "created_by": run.created_by,
        "created_at": run.created_at,
        "started_at": run.started_at,
        "finished_at": run.finished_at,
        "updated_at": run.updated_at,
    }
