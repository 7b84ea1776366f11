"""Ask for a run: a new one, or the one that was asked for before and is not done.

A command that is given again after Ctrl-C, a crash or `kill -9` means "go on", so it finds its run by kind and
parameters instead of starting another.
"""

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncSession

from app.queries import runs
from app.queries.runs import RunKind, RunView, Stage
from app.queries.sql import locks
from app.runs.job_context import JobContext
from app.runs.params import Params

_LOOK_BACK = 500
"""Runs, newest first, among which an unfinished one is looked for."""

INTERRUPTED = "It was interrupted. The same command goes on from where it stopped."


async def request_run(
    session: AsyncSession,
    *,
    kind: RunKind,
    title: str,
    params: Params,
    stages: Sequence[Stage],
    created_by: str,
) -> RunView:
    """The unfinished run of this kind and these parameters, or a new one."""
    unfinished = await find_run(session, kind, params, ("queued", "running", "failed"))
    if unfinished is not None:
        return unfinished
    return await runs.create_run(
        session,
        kind=kind,
        title=title,
        params=params.model_dump(mode="json"),
        stages=tuple(stages),
        created_by=created_by,
    )


async def find_run(session: AsyncSession, kind: RunKind, params: Params, states: Sequence[str]) -> RunView | None:
    """The newest run of this kind, these parameters and one of these states."""
    wanted = params.model_dump(mode="json")
    for run in await runs.list_runs(session, limit=_LOOK_BACK):
        if run.kind == kind and run.state in states and dict(run.params) == wanted:
            return run
    return None


async def fail_abandoned(ctx: JobContext) -> None:
    """Mark runs as failed that a command was doing when it was killed: nobody would go on with them unasked."""
    async with ctx.sessions() as session:
        running = [run for run in await runs.list_runs(session, limit=_LOOK_BACK) if run.state == "running"]
    for run in running:
        if run.job_id is None and not await locks.is_run_locked(ctx.engine, run.id):
            async with ctx.sessions.begin() as session:
                await runs.fail_run(session, run.id, INTERRUPTED)
