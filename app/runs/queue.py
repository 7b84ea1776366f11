"""The tasks of a worker: "do this run", "help with this one", and the maintenance that requeues what a dead one left.

`app.runs.jobs` says how jobs and locks go together.
"""

import asyncio
from contextlib import suppress
from typing import Any

import procrastinate
import structlog
from procrastinate import BaseRetryStrategy, RetryDecision
from procrastinate.exceptions import AlreadyEnqueued, UniqueViolation
from procrastinate.jobs import Job, Status
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from app.database_url import libpq_url
from app.queries import runs
from app.queries.activity import DELIVER, WEBHOOKS
from app.queries.sql import locks
from app.runs.context import RunCancelled, RunInterrupted, RunLocked, RunNotUnderstood
from app.runs.execution import execute
from app.runs.failures import INFRASTRUCTURE, INTERRUPTED, is_infrastructure
from app.runs.job_context import JobContext
from app.runs.jobs import HELP, HELPING, RUN, RUNS, app
from app.runs.sharing import help_run
from app.services.webhooks import NotDelivered, deliver
from app.storage import removal

log = structlog.get_logger("worker")

MAINTENANCE = "maintenance"
"""The queue of small periodic tasks, served beside a long run."""

HEARTBEAT_SECONDS = 10.0
STALLED_SECONDS = 30.0
_MAX_ATTEMPTS = 5


class RetryInfrastructure(BaseRetryStrategy):
    """Retry what failed for reasons outside the work, never what the work itself got wrong."""

    def get_retry_decision(self, *, exception: BaseException, job: Job) -> RetryDecision | None:
        """Retry at once after an orderly stop, soon if another process holds the run, later after a lost database."""
        if isinstance(exception, (RunInterrupted, asyncio.CancelledError)) and not isinstance(exception, RunCancelled):
            return RetryDecision(retry_in={"seconds": 0})
        if isinstance(exception, RunLocked):
            return RetryDecision(retry_in={"seconds": 10})
        if isinstance(exception, RunNotUnderstood):
            return RetryDecision(retry_in={"seconds": 30})
        if is_infrastructure(exception) and job.attempts < _MAX_ATTEMPTS:
            return RetryDecision(retry_in={"seconds": 2 ** (job.attempts + 1)})
        return None


def connector(database_url: str) -> procrastinate.PsycopgConnector:
    """Return a connector for `app.replace_connector`."""
    return procrastinate.PsycopgConnector(conninfo=libpq_url(database_url), min_size=1, max_size=4)


@app.task(name=RUN, queue=RUNS, retry=RetryInfrastructure(), pass_context=True)
async def do_run(context: procrastinate.JobContext, run_id: int) -> None:
    """Do a run, to its end or from where it stopped; one of another version is left to others, and its page says so."""
    ctx: JobContext = context.additional_context["ctx"]
    try:
        await execute(ctx, run_id)
    except RunNotUnderstood as error:
        async with ctx.sessions.begin() as session:
            await runs.note_run(session, run_id, str(error))
        raise
    except RunCancelled:
        raise
    except (RunInterrupted, asyncio.CancelledError):
        with suppress(*INFRASTRUCTURE):  # without the database, the next worker writes it
            async with ctx.sessions.begin() as session:
                await runs.return_to_queue(session, run_id)
        raise


@app.task(name=HELP, queue=HELPING, pass_context=True)  # not tried again: the run calls for as long as it needs help
async def answer_call(context: procrastinate.JobContext, run_id: int, work: dict[str, Any]) -> None:
    """Share the work of a run that another process does."""
    ctx: JobContext = context.additional_context["ctx"]
    await help_run(ctx, run_id, work)


class RetryDelivery(BaseRetryStrategy):
    """Send again later, and later each time, what was not taken."""

    def get_retry_decision(self, *, exception: BaseException, job: Job) -> RetryDecision | None:
        """Return when to send again; an orderly stop, or a lost database, is no attempt that failed."""
        if isinstance(exception, NotDelivered):
            return RetryDecision(retry_in={"seconds": exception.retry_in})
        if isinstance(exception, asyncio.CancelledError) or is_infrastructure(exception):
            return RetryDecision(retry_in={"seconds": 5})
        return None


@app.task(name=DELIVER, queue=WEBHOOKS, retry=RetryDelivery(), pass_context=True)
async def deliver_webhook(context: procrastinate.JobContext, delivery_id: int) -> None:
    """Tell a webhook of one act."""
    ctx: JobContext = context.additional_context["ctx"]
    await deliver(ctx.sessions, ctx.settings, delivery_id)


@app.periodic(cron="* * * * *")
@app.task(name="retry_stalled", queue=MAINTENANCE, queueing_lock="retry_stalled", pass_context=True)
async def retry_stalled(context: procrastinate.JobContext, timestamp: int) -> None:
    """Requeue jobs whose worker sends no heartbeat; procrastinate leaves this to its users."""
    ctx: JobContext = context.additional_context["ctx"]
    await requeue_stalled(context.app, ctx.engine, STALLED_SECONDS)
    await fail_abandoned(ctx)


@app.periodic(cron="* * * * *")
@app.task(name="remove_deleted", queue=MAINTENANCE, queueing_lock="remove_deleted", pass_context=True)
async def remove_deleted(context: procrastinate.JobContext, timestamp: int) -> None:
    """Remove the files of what was deleted on the site, which may have no access to them."""
    ctx: JobContext = context.additional_context["ctx"]
    removed = await removal.remove_deleted(ctx.sessions, ctx.artifacts)
    if removed.items:
        log.info("deleted_files", folders=[item.path.name for item in removed.items], bytes=removed.size)


async def requeue_stalled(app: procrastinate.App, engine: AsyncEngine, seconds_since_heartbeat: float) -> list[int]:
    """Requeue the jobs that are marked as running while no process works on their run; return the ids of the runs.

    A worker may be between taking a job and locking its run at this moment. That is harmless: the job is then taken
    twice, and who comes second finds the run locked or finished.
    """
    found = []
    # Maintenance, and calls for help, are deferred again. A job whose worker lives is deleted by that worker.
    for name in (MAINTENANCE, HELPING):
        for job in await app.job_manager.get_stalled_jobs(queue=name, seconds_since_heartbeat=STALLED_SECONDS):
            await app.job_manager.finish_job(job, Status.FAILED, delete_job=True)
    for job in await app.job_manager.get_stalled_jobs(queue=WEBHOOKS, seconds_since_heartbeat=STALLED_SECONDS):
        await app.job_manager.retry_job(job)
    for job in await app.job_manager.get_stalled_jobs(queue=RUNS, seconds_since_heartbeat=seconds_since_heartbeat):
        assert job.id is not None
        run_id = int(str(job.task_kwargs["run_id"]))
        async with locks.run_lock(engine, run_id) as held:
            if not held:
                continue
            async with AsyncSession(engine) as session, session.begin():
                await runs.return_to_queue(session, run_id)
            try:
                await app.job_manager.retry_job(job)
            except (AlreadyEnqueued, UniqueViolation):  # the run was submitted again, and another job waits for it
                await app.job_manager.finish_job(job, Status.FAILED, delete_job=True)
        log.info("job_requeued", run=run_id, job=job.id)
        found.append(run_id)
    return found


async def fail_abandoned(ctx: JobContext) -> None:
    """Mark runs as failed that a command was doing when it was killed: no worker would continue them."""
    async with ctx.sessions() as session:
        without_job = await runs.list_without_job(session)
    for run_id in without_job:
        async with locks.run_lock(ctx.engine, run_id) as held:
            if held:
                async with ctx.sessions.begin() as session:
                    await runs.fail_run(session, run_id, INTERRUPTED)


async def count_jobs(engine: AsyncEngine) -> None:
    """Tell Postgres' planner how long the queue is: while it takes a long one for empty, a job is found in seconds."""
    async with engine.begin() as connection:
        await connection.execute(text("ANALYZE procrastinate_jobs"))
