"""Do one run: take its lock, do its work, and write down how it ended."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import structlog

from app.pipeline.compare import run_compare
from app.pipeline.demo import run_demo
from app.pipeline.evaluate import run_evaluate
from app.pipeline.import_sae import run_import
from app.pipeline.index import run_index
from app.pipeline.train import run_train
from app.queries import runs
from app.queries.runs import RunKind
from app.queries.sql import locks
from app.runs.context import RunContext, RunInterrupted, RunLocked, StagesListener
from app.runs.failures import explain, is_infrastructure
from app.runs.job_context import JobContext
from sae_core.errors import SAEError

log = structlog.get_logger("worker")

Job = Callable[[RunContext, JobContext], Awaitable[Mapping[str, Any]]]

JOBS: dict[RunKind, Job] = {
    "demo": run_demo,
    "train": run_train,
    "index": run_index,
    "evaluate": run_evaluate,
    "compare": run_compare,
    "import": run_import,
}


async def execute(ctx: JobContext, run_id: int, *, listener: StagesListener | None = None) -> None:
    """Do a run to its end, going on from what an earlier attempt left. Does nothing where it is done or cancelled.

    Raises:
        BeingDone: another process is doing it.
        UserError, SAEError: the work failed in a way that its user can mend; the run says so too.
        RunInterrupted: the work was stopped, and can go on.
    """
    async with locks.run_lock(ctx.engine, run_id) as held:
        if not held:
            raise RunLocked(f"Run {run_id} is being done by another process. Its page shows how far it is.")
        async with ctx.sessions.begin() as session:
            if not await runs.start_run(session, run_id):
                return
            run = await runs.get_run(session, run_id)
        assert run is not None
        log.info("run_started", run=run.id, kind=run.kind)
        try:
            async with RunContext(run, ctx.sessions, listener=listener) as context:
                result = await JOBS[run.kind](context, ctx)
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


async def _fail(ctx: JobContext, run_id: int, error: Exception) -> None:
    """Write why the run failed: in one line on its page, and in full in the log where it is our fault."""
    message = explain(error)
    mendable = isinstance(error, SAEError) or message == str(error)
    if mendable:
        log.warning("run_failed", run=run_id, reason=message)
    else:
        log.error("run_failed", run=run_id, reason=message, exc_info=error)
    async with ctx.sessions.begin() as session:
        await runs.fail_run(session, run_id, message)
