"""Runs: long work, its progress and its measurements."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy.ext.asyncio import AsyncSession

RunKind = Literal["train", "index", "evaluate", "demo", "import", "export"]
RunState = Literal["queued", "running", "done", "failed", "cancelled"]
StageState = Literal["waiting", "running", "done", "failed"]


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a run; `done` of `total` `unit`s are finished, `seconds` were spent on it so far."""

    name: str
    title: str
    state: StageState = "waiting"
    done: int = 0
    total: int = 0
    unit: str = ""
    seconds: float = 0.0
    started_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class RunView:
    """One run."""

    id: int
    kind: RunKind
    title: str
    state: RunState
    params: Mapping[str, Any]
    stages: tuple[Stage, ...]
    result: Mapping[str, Any] | None
    error: str | None
    sae_id: int | None
    sae_slug: str | None
    job_id: int | None
    created_by: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class MetricPoint:
    """Measurements at one step of a run."""

    step: int
    values: Mapping[str, float]


async def create_run(
    session: AsyncSession,
    *,
    kind: RunKind,
    title: str,
    params: Mapping[str, Any],
    stages: Sequence[Stage],
    created_by: str,
    sae_id: int | None = None,
) -> RunView:
    """Register a queued run."""
    raise NotImplementedError


async def set_job(session: AsyncSession, run_id: int, job_id: int) -> None:
    """Note which job of the queue does this run."""
    raise NotImplementedError


async def set_sae(session: AsyncSession, run_id: int, sae_id: int) -> None:
    """Note which SAE this run is about, once there is one."""
    raise NotImplementedError


async def get_run(session: AsyncSession, run_id: int) -> RunView | None:
    """The run with this id."""
    raise NotImplementedError


async def list_runs(session: AsyncSession, *, limit: int = 50, before: int | None = None) -> list[RunView]:
    """Runs, newest first; `before` is the last id of the page before."""
    raise NotImplementedError


async def start_run(session: AsyncSession, run_id: int) -> bool:
    """Mark a run as running, also one that failed or was interrupted; False where it is done or cancelled."""
    raise NotImplementedError


async def update_progress(session: AsyncSession, run_id: int, stages: Sequence[Stage]) -> bool:
    """Replace a running run's stages; False where it is no longer running, so the worker stops."""
    raise NotImplementedError


async def append_metrics(session: AsyncSession, run_id: int, points: Sequence[MetricPoint]) -> None:
    """Add measurements; a step that was measured before, by a run that resumed, is replaced."""
    raise NotImplementedError


async def metrics(session: AsyncSession, run_id: int, *, after_step: int = -1) -> list[MetricPoint]:
    """Measurements with a step above `after_step`, in order."""
    raise NotImplementedError


async def finish_run(session: AsyncSession, run_id: int, result: Mapping[str, Any]) -> None:
    """Mark a running run as done."""
    raise NotImplementedError


async def fail_run(session: AsyncSession, run_id: int, error: str) -> None:
    """Mark a run as failed, with one line that says why; a stage that was running failed with it."""
    raise NotImplementedError


async def cancel_run(session: AsyncSession, run_id: int) -> bool:
    """Mark a queued or running run as cancelled; False where it had ended."""
    raise NotImplementedError
