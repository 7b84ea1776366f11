"""The jobs of the queue: put a run in, take it out. Here is no work, so the site can use it without torch.

A run is a row. Its job in procrastinate only says that some worker is to take it. Three locks prevent two workers from
doing one run: the job's `queueing_lock` (it waits once), its `lock` (procrastinate runs it once) and the run's advisory
lock, which a worker holds while it works and which the database releases the moment that worker dies. The advisory lock
also tells a job whose worker is dead from one whose worker is only slow.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import procrastinate
from procrastinate.exceptions import AlreadyEnqueued
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from app.queries import runs

RUNS = "runs"
"""The queue of runs: one at a time in a worker, since one run uses the whole machine."""
RUN = "run"
"""The name of the task that does a run; `app.runs.queue` has the task."""
HELPING = "help"
"""The queue of calls for help by runs under way, served by workers that have no run to do."""
HELP = "help_run"
"""The name of the task that makes shards of another's run."""
_AFTER_RUNS = -1
"""Priority of calls for help: runs that wait come first."""

app = procrastinate.App(connector=procrastinate.PsycopgConnector())
"""Tasks are registered here. A worker gives it its database by `replace_connector`."""


async def enqueue(session: AsyncSession, run_id: int) -> None:
    """Give a run a job, unless one is waiting already. Run and job are committed together, with the session."""
    key = f"run {run_id}"
    try:
        async with session.begin_nested():
            # Inside the block, because the session sets its savepoint when its connection is first used.
            connection = (await (await session.connection()).get_raw_connection()).driver_connection
            deferrer = app.configure_task(RUN, queue=RUNS, lock=key, queueing_lock=key, connection=connection)
            job_id = await deferrer.defer_async(run_id=run_id)
    except AlreadyEnqueued:
        return
    await runs.set_job(session, run_id, job_id)


async def call_for_help(session: AsyncSession, run_id: int, work: Mapping[str, Any]) -> None:
    """Ask a worker to share a run's work, unless a call waits already."""
    with suppress(AlreadyEnqueued):
        async with session.begin_nested():
            connection = (await (await session.connection()).get_raw_connection()).driver_connection
            deferrer = app.configure_task(
                HELP, queue=HELPING, priority=_AFTER_RUNS, queueing_lock=_call(run_id), connection=connection
            )
            await deferrer.defer_async(run_id=run_id, work=dict(work))


async def withdraw_call(session: AsyncSession, run_id: int) -> None:
    """Take a call for help out of the queue that no worker has taken yet."""
    await session.execute(
        text(
            "SELECT procrastinate_cancel_job_v1(id, false, true) FROM procrastinate_jobs "
            "WHERE queueing_lock = :lock AND status = 'todo'"
        ),
        {"lock": _call(run_id)},
    )


def _call(run_id: int) -> str:
    return f"help run {run_id}"


async def withdraw(session: AsyncSession, job_id: int) -> None:
    """Take a job out of the queue that no worker has taken yet."""
    await session.execute(text("SELECT procrastinate_cancel_job_v1(:job_id, false, true)"), {"job_id": job_id})
