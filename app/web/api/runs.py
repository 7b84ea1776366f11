"""Runs: GET /runs and /runs/{id}."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, Field

from app.errors import NotFound
from app.problems import documented
from app.queries import runs as queries
from app.queries.runs import RunState, RunView, StageState
from app.queries.sql.pg_safe import MAX_INTEGER
from app.runs.spec import specs
from app.web.dependencies import BeforeId, Session

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


class RunOut(BaseModel):
    """One piece of long work."""

    id: int
    kind: Annotated[str, Field(description="A kind that GET /api/v1/runs/kinds lists.", examples=["train"])]
    title: str
    state: RunState
    sae: Annotated[str | None, Field(description="Slug of the run's SAE, once it exists.")]
    stages: list[StageOut]
    error: Annotated[str | None, Field(description="Reason of the failure, and the remedy.")]
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


@router.get("", summary="List runs", responses=documented())
async def list_runs(
    session: Session,
    limit: Annotated[int, Query(ge=1, le=200)] = _DEFAULT_LIMIT,
    cursor: BeforeId = None,
) -> RunList:
    """Return runs, newest first."""
    found, following = await queries.list_runs(session, limit=limit, before=cursor)
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
async def get_run(id: Annotated[int, Path(ge=1, le=MAX_INTEGER)], session: Session) -> RunDetailOut:
    """Return one run."""
    run = await queries.get_run(session, id)
    if run is None:
        raise NotFound(f"Run {id} does not exist. GET /api/v1/runs lists them.")
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
        "created_by": run.created_by,
        "created_at": run.created_at,
        "started_at": run.started_at,
        "finished_at": run.finished_at,
        "updated_at": run.updated_at,
    }
