"""Submit a run: a new one, or the one that was submitted before and is not done.

A command that is given again after Ctrl-C, a crash or `kill -9` means "continue". So it finds its run by kind and
parameters instead of starting another.
"""

from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from app.queries import runs
from app.queries.runs import RunView, Stage
from app.queries.sql import locks
from app.runs import queue
from app.runs.job_context import JobContext
from app.runs.params import Params
from app.runs.spec import P, RunSpec
from app.services.actors import Actor


async def submit_run(session: AsyncSession, spec: RunSpec[P], params: P, *, actor: Actor) -> RunView:
    """Return the unfinished run of this kind and these parameters, or a new one, also where two ask at once."""
    await locks.lock_until_commit(session, f"submit {spec.kind}")
    unfinished = await find_run(session, spec, params, "queued", "running", "failed")
    if unfinished is not None:
        return unfinished
    return await runs.create_run(
        session,
        kind=spec.kind,
        title=spec.title(params),
        params=params.model_dump(mode="json"),
        stages=[Stage(stage.name, stage.title, unit=stage.unit) for stage in spec.stages(params)],
        created_by=actor.name,
    )


async def find_run(session: AsyncSession, spec: RunSpec[P], params: Params, *states: runs.RunState) -> RunView | None:
    """Return the newest run of this kind with these parameters in one of these states."""
    return await runs.find_run(
        session, spec.kind, params.model_dump(mode="json"), states, defaults=_defaults(spec.params)
    )


def _defaults(params: type[Params]) -> dict[str, Any]:
    """Return the defaults of parameters that have one, as JSON."""
    fields = params.model_fields.items()
    given = {name: field.get_default(call_default_factory=True) for name, field in fields if not field.is_required()}
    return params.model_construct(**given).model_dump(mode="json", include=set(given))


async def enqueue_run(ctx: JobContext, session: AsyncSession, run: RunView) -> None:
    """Give a run to the workers, unless a process works on it already."""
    if await locks.is_run_locked(ctx.engine, run.id):
        return
    if run.state == "failed":  # running from now on, or a follower would take the old failure for a new one
        await runs.start_run(session, run.id)
    await queue.enqueue(session, run.id)
