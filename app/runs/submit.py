"""Submit a run: a new one, or the one that was submitted before and is not done.

A command that is given again after Ctrl-C, a crash or `kill -9` means "continue". So it finds its run by kind and
parameters instead of starting another.
"""

from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import Conflict
from app.queries import runs
from app.queries.runs import RunView, Stage
from app.queries.sql import locks
from app.runs import jobs
from app.runs.params import Params
from app.runs.spec import P, RunSpec
from app.services.actors import Actor
from app.services.runs import find_run as find_run_by_id
from app.settings import Settings


async def submit_run(
    session: AsyncSession, spec: RunSpec[P], params: P, *, settings: Settings, actor: Actor
) -> RunView:
    """Return the unfinished run of this kind and these parameters, or a new one, also where two ask at once.

    Raises:
        UserError: a new one cannot be done, and why.
    """
    await locks.lock_until_commit(session, f"submit {spec.kind}")
    unfinished = await find_run(session, spec, params, "queued", "running", "failed")
    if unfinished is None or unfinished.state == "failed":
        await spec.check(session, settings, params)
    return unfinished or await runs.create_run(
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


async def request_run(
    session: AsyncSession, spec: RunSpec[P], params: P, *, settings: Settings, actor: Actor
) -> RunView:
    """Submit a run and give it to the workers; one that is under way already is returned as it is.

    Raises:
        UserError: it cannot be done, and why.
    """
    run = await submit_run(session, spec, params, settings=settings, actor=actor)
    if await locks.holds_run_lock(session, run.id):  # a process is doing it
        return run
    await runs.requeue_run(session, run.id)
    await jobs.enqueue(session, run.id)
    return await find_run_by_id(session, run.id)


async def cancel_run(session: AsyncSession, run_id: int) -> RunView:
    """Cancel a run that waits or runs; what it has finished is kept.

    Raises:
        NotFound: there is no such run.
        Conflict: it has ended.
    """
    run = await find_run_by_id(session, run_id)
    check_cancel(run)
    if not await runs.cancel_run(session, run_id):
        check_cancel(await find_run_by_id(session, run_id))  # it ended since it was read
    if run.job_id is not None:
        await jobs.withdraw(session, run.job_id)
    return await find_run_by_id(session, run_id)


async def retry_run(session: AsyncSession, run_id: int) -> RunView:
    """Give a run that failed or was cancelled to the workers again; it continues from what it left.

    Raises:
        NotFound: there is no such run.
        Conflict: it is done, or under way.
    """
    check_retry(await find_run_by_id(session, run_id))
    await runs.requeue_run(session, run_id)
    await jobs.enqueue(session, run_id)
    return await find_run_by_id(session, run_id)


def check_cancel(run: RunView) -> None:
    """Refuse to cancel a run that has ended.

    Raises:
        Conflict: it has.
    """
    if run.state not in runs.ACTIVE:
        raise Conflict(f"Run {run.id} has ended ({run.state}): there is nothing to cancel.")


def check_retry(run: RunView) -> None:
    """Refuse to retry a run that is done or under way.

    Raises:
        Conflict: it is.
    """
    if run.state == "done":
        raise Conflict(f"Run {run.id} is done: there is nothing to retry.")
    if run.state in runs.ACTIVE:
        raise Conflict(f"Run {run.id} is {run.state} already.")
