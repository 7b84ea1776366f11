"""The worker process: it takes runs from the queue, one at a time, and maintains the queue meanwhile."""

import asyncio
import os
import signal

import procrastinate
import structlog

from app.db import create_engine, create_sessionmaker
from app.queries.activity import WEBHOOKS
from app.runs import jobs, queue
from app.runs.failures import INFRASTRUCTURE
from app.runs.job_context import JobContext
from app.runs.outages import wait_for_database
from app.settings import Settings

log = structlog.get_logger("worker")

_NICENESS = 5
"""Pages and probes come first where they compete with a run for the processor."""


async def work(settings: Settings, database_url: str) -> None:
    """Take runs until told to stop. A run that is interrupted returns to the queue.

    Raises:
        ExceptionGroup: the database went away, and was not back within a minute.
    """
    os.nice(_NICENESS)
    engine = create_engine(database_url, statement_timeout=None)
    ctx = JobContext(settings, engine, create_sessionmaker(engine))
    working = asyncio.current_task()
    assert working is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, working.cancel)
    try:
        while True:
            try:
                await _serve(ctx, database_url)
            except* INFRASTRUCTURE:
                await wait_for_database(engine)
    except asyncio.CancelledError:
        log.info("worker_stopped")
    finally:
        await engine.dispose()


async def _serve(ctx: JobContext, database_url: str) -> None:
    """Take runs while there is a database."""
    with jobs.app.replace_connector(queue.connector(database_url)) as app:
        async with app.open_async():
            await queue.requeue_stalled(app, ctx.engine, seconds_since_heartbeat=0)
            await queue.fail_abandoned(ctx)
            await queue.count_jobs(ctx.engine)
            log.info("worker_ready")
            async with asyncio.TaskGroup() as workers:
                for queues in ([jobs.RUNS, jobs.HELPING], [queue.MAINTENANCE], [WEBHOOKS]):
                    workers.create_task(_take(app, queues, ctx), name=queues[0])


async def _take(app: procrastinate.App, queues: list[str], ctx: JobContext) -> None:
    """Take jobs from some queues, one at a time."""
    await app.run_worker_async(
        queues=queues,
        name=queues[0],
        concurrency=1,
        update_heartbeat_interval=queue.HEARTBEAT_SECONDS,
        stalled_worker_timeout=queue.STALLED_SECONDS,
        shutdown_graceful_timeout=0,
        delete_jobs="always",  # the run's row keeps what is worth keeping
        additional_context={"ctx": ctx},
        install_signal_handlers=False,
    )
