"""Do one run: take its lock, do its work, and write down how it ended."""

import asyncio
import os
import socket
from typing import Any

import structlog

from app.errors import NotFound, Unprocessable, UserError
from app.queries import runs
from app.queries.runs import RunView
from app.queries.sql import locks
from app.runs.context import RunContext, RunInterrupted, RunLocked, RunNotUnderstood, StagesListener
from app.runs.failures import explain, is_infrastructure
from app.runs.job_context import JobContext
from app.runs.outages import wait_for_database, wait_for_store
from app.runs.params import Params
from app.runs.spec import RunSpec, parse_params, spec_of
from sae_core.errors import SAEError

log = structlog.get_logger("worker")

_ATTEMPTS = 5
"""Attempts at a run whose database, or object store, goes away again and again."""


async def execute(ctx: JobContext, run_id: int, *, listener: StagesListener | None = None) -> None:
    """Do a run to its end, continuing from what an earlier attempt left; nothing where it is done or cancelled.

    Where the database or the object store goes away, the run waits for it, and continues from what is on disk. Not
    under torchrun: the other processes cannot be taken back to there.

    Raises:
        RunLocked: another process is doing it.
        RunNotUnderstood: another version of SeeSAE submitted it.
        UserError, SAEError: the work failed for a reason that its user can fix; the run says so too.
        RunInterrupted: the work was stopped, and can continue.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            await _attempt(ctx, run_id, listener)
        except Exception as error:
            alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
            if attempt == _ATTEMPTS or not (alone and is_infrastructure(error)):
                raise
            await wait_for_database(ctx.engine)
            if (store := ctx.artifacts.store) is not None:
                await wait_for_store(store)
        else:
            return


async def _attempt(ctx: JobContext, run_id: int, listener: StagesListener | None) -> None:
    async with locks.run_lock(ctx.engine, run_id) as held:
        if not held:
            raise RunLocked(f"Run {run_id} is being done by another process. Its page shows its progress.")
        async with ctx.sessions.begin() as session:
            run = await runs.get_run(session, run_id)
            if run is None:  # it was deleted while its job waited
                return
            spec, params = _understood(run)
            if not await runs.start_run(session, run_id, worker=f"{socket.gethostname()}, process {os.getpid()}"):
                return
        log.info("run_started", run=run.id, kind=run.kind)
        try:
            async with ctx.sessions() as session:
                await spec.check(session, ctx.settings, params)  # things change while a run waits
            async with RunContext(run, ctx.sessions, listener=listener, store=ctx.artifacts.store) as context:
                result = await spec.work(context, ctx, params)
        except (RunInterrupted, asyncio.CancelledError):
            log.info("run_interrupted", run=run.id)
            raise
        except Exception as error:
            if not is_infrastructure(error):
                await _fail(ctx, run_id, error)
            raise
        async with ctx.sessions.begin() as session:
            await runs.finish_run(session, run_id, {**result, "seconds": context.seconds})
        log.info("run_done", run=run.id)


def _understood(run: RunView) -> tuple[RunSpec[Any], Params]:
    """Return the kind of a run and its parameters.

    Raises:
        RunNotUnderstood: another version of SeeSAE submitted it.
    """
    try:
        spec = spec_of(run.kind)
        return spec, parse_params(spec, run.params)
    except (NotFound, Unprocessable) as error:
        raise RunNotUnderstood(
            f"The worker {socket.gethostname()} has another version of SeeSAE and does not know this run ({error}) It "
            "waits for a worker that does: start one of the version that submitted it."
        ) from None


async def _fail(ctx: JobContext, run_id: int, error: Exception) -> None:
    """Write why the run failed: in one line on its page, and in full in the log where the fault is ours."""
    message = explain(error)
    users_to_fix = isinstance(error, (UserError, SAEError))
    if users_to_fix:
        log.warning("run_failed", run=run_id, reason=message)
    else:
        log.error("run_failed", run=run_id, reason=message, exc_info=error)
    async with ctx.sessions.begin() as session:
        await runs.fail_run(session, run_id, message)
