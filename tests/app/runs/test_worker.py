"""The queue and the worker: real processes, stopped in order and killed."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import procrastinate
import pytest
from procrastinate.jobs import Status
from sqlalchemy import text

from app.pipeline.train import TRAIN, TrainParams
from app.queries import runs
from app.queries.runs import RunView
from app.queries.sql import locks
from app.runs import queue
from app.runs.job_context import JobContext
from app.runs.jobs import app as jobs_app
from app.runs.jobs import enqueue
from app.runs.submit import cancel_run, retry_run, submit_run
from app.services.actors import Actor

SECONDS = 90.0


@pytest.fixture
async def jobs(database_url: str) -> AsyncIterator[procrastinate.App]:
    with jobs_app.replace_connector(queue.connector(database_url)) as app:
        async with app.open_async():
            yield app


async def ask(ctx: JobContext, training: TrainParams) -> int:
    async with ctx.sessions.begin() as session:
        run = await submit_run(session, TRAIN, training, settings=ctx.settings, actor=Actor("tester"))
        await enqueue(session, run.id)
    return run.id


async def row(ctx: JobContext, run_id: int) -> RunView:
    async with ctx.sessions() as session:
        run = await runs.get_run(session, run_id)
    assert run is not None
    return run


async def statuses(ctx: JobContext) -> list[str]:
    async with ctx.sessions() as session:
        found = await session.scalars(
            text("SELECT status::text FROM procrastinate_jobs WHERE queue_name = 'runs' ORDER BY id")
        )
        return list(found)


async def until(condition: Callable[[RunView], bool], ctx: JobContext, run_id: int, worker: "Worker") -> None:
    """Wait for a condition of a run, with a deadline; fail at once if the worker dies."""
    async with asyncio.timeout(SECONDS):
        while not condition(await row(ctx, run_id)):
            assert worker.process.returncode is None, worker.log.read_text()
            await asyncio.sleep(0.05)


class Worker:
    """A worker process."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process = process
        self.log = log

    async def end(self, number: int) -> int:
        self.process.send_signal(number)
        return await asyncio.wait_for(self.process.wait(), SECONDS)


@asynccontextmanager
async def working(ctx: JobContext) -> AsyncIterator[Worker]:
    """Start a worker as on another machine: with a home of its own, and the same database and artifacts."""
    assert ctx.settings.database_url is not None
    home = ctx.settings.home.parent / f"home of worker {uuid4().hex}"
    environment = {
        **os.environ,
        "SEESAE_DATABASE_URL": ctx.settings.database_url,
        "SEESAE_HOME": str(home),
        "SEESAE_ARTIFACTS": str(ctx.settings.artifacts),
        "SEESAE_DEVICE": "cpu",
        "OMP_NUM_THREADS": "1",
    }
    home.mkdir()
    log = home / "worker.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "app.cli", "worker", env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        yield Worker(process, log)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_a_run_survives_an_orderly_stop_and_a_kill(ctx: JobContext, training: TrainParams) -> None:
    # Long enough to be caught in its training, with a checkpoint to continue from.
    run_id = await ask(ctx, training.model_copy(update={"samples": 200_000}))

    def is_training(run: RunView) -> bool:
        return run.stages[4].name == "train" and run.stages[4].done > 0 and run.stages[4].state == "running"

    async with working(ctx) as first:
        await until(is_training, ctx, run_id, first)
        assert await first.end(signal.SIGTERM) == 0
    assert await statuses(ctx) == ["todo"]
    reached = (await row(ctx, run_id)).stages[4].done

    async with working(ctx) as second:
        await until(lambda run: is_training(run) and run.stages[4].done > reached, ctx, run_id, second)
        await second.end(signal.SIGKILL)
    assert await statuses(ctx) == ["doing"]  # nobody could say otherwise

    async with working(ctx) as third:
        await until(lambda run: run.state == "done", ctx, run_id, third)
    run = await row(ctx, run_id)
    assert run.sae_slug == "tiny-llama-l1-batchtopk-64"
    assert run.worker == f"{socket.gethostname()}, process {third.process.pid}"
    async with ctx.sessions() as session:
        steps = [point.step for point in await runs.metrics(session, run_id)]
    assert steps == sorted(set(steps))  # one curve, however many attempts
    assert steps[0] <= reached < steps[-1]


async def test_only_the_job_of_a_dead_worker_is_requeued(
    ctx: JobContext, training: TrainParams, jobs: procrastinate.App
) -> None:
    run_id = await ask(ctx, training)
    (worker_id,) = [await jobs.job_manager.register_worker()]
    job = await jobs.job_manager.fetch_job(queues=["runs"], worker_id=worker_id)
    assert job is not None
    assert await queue.requeue_stalled(jobs, ctx.engine, queue.STALLED_SECONDS) == []  # its heartbeat is fresh
    async with ctx.sessions.begin() as session:
        await session.execute(text("UPDATE procrastinate_workers SET last_heartbeat = now() - interval '1 minute'"))
    async with locks.run_lock(ctx.engine, run_id):
        assert await queue.requeue_stalled(jobs, ctx.engine, queue.STALLED_SECONDS) == []  # slow, not dead
    assert await statuses(ctx) == ["doing"]
    assert await queue.requeue_stalled(jobs, ctx.engine, queue.STALLED_SECONDS) == [run_id]
    assert await statuses(ctx) == ["todo"]


async def test_the_start_of_a_worker_leaves_the_maintenance_of_a_living_one(
    ctx: JobContext, jobs: procrastinate.App
) -> None:
    await queue.retry_stalled.defer_async(timestamp=0)
    worker_id = await jobs.job_manager.register_worker()
    job = await jobs.job_manager.fetch_job(queues=[queue.MAINTENANCE], worker_id=worker_id)
    assert job is not None
    await queue.requeue_stalled(jobs, ctx.engine, 0)  # as a second worker does when it starts
    await jobs.job_manager.finish_job(job, Status.SUCCEEDED, delete_job=True)  # raises for a job that is gone


async def test_a_job_is_not_requeued_beside_another_of_the_same_run(
    ctx: JobContext, training: TrainParams, jobs: procrastinate.App
) -> None:
    run_id = await ask(ctx, training)
    worker_id = await jobs.job_manager.register_worker()
    assert await jobs.job_manager.fetch_job(queues=["runs"], worker_id=worker_id) is not None
    assert await ask(ctx, training) == run_id  # submitted again, while the first job seems to run
    assert await statuses(ctx) == ["doing", "todo"]
    assert await queue.requeue_stalled(jobs, ctx.engine, 0) == [run_id]
    assert await statuses(ctx) == ["todo"]


async def test_a_run_submitted_twice_waits_once(ctx: JobContext, training: TrainParams) -> None:
    assert await ask(ctx, training) == await ask(ctx, training)
    assert await statuses(ctx) == ["todo"]


async def test_run_and_job_are_committed_together(ctx: JobContext, training: TrainParams) -> None:
    async with ctx.sessions() as session:
        run = await submit_run(session, TRAIN, training, settings=ctx.settings, actor=Actor("tester"))
        await enqueue(session, run.id)
        await session.rollback()
    assert await statuses(ctx) == []
    async with ctx.sessions() as session:
        assert await runs.get_run(session, run.id) is None


async def ask_as_another_version(ctx: JobContext, kind: str, params: dict[str, object]) -> int:
    async with ctx.sessions.begin() as session:
        run = await runs.create_run(session, kind=kind, title=kind, params=params, stages=[], created_by="tester")
        await enqueue(session, run.id)
    return run.id


async def test_what_cannot_be_done_fails_and_what_another_version_submitted_waits_for_it(
    ctx: JobContext, training: TrainParams
) -> None:
    strange = [
        await ask_as_another_version(ctx, "dance", {}),
        await ask_as_another_version(ctx, "train", {**training.model_dump(mode="json"), "moons": 2}),
    ]
    wrong = await ask(ctx, training.model_copy(update={"hook": ("nowhere.1",)}))
    async with working(ctx) as worker:
        await until(lambda run: run.state == "failed", ctx, wrong, worker)
        for run_id in strange:
            await until(lambda run: run.error is not None, ctx, run_id, worker)
        assert await worker.end(signal.SIGTERM) == 0
    assert await statuses(ctx) == ["todo", "todo"]
    for run_id in strange:
        run = await row(ctx, run_id)
        assert run.state == "queued"
        assert "another version of SeeSAE" in (run.error or "")


async def test_a_cancelled_run_stops_and_a_retry_continues_it(ctx: JobContext, training: TrainParams) -> None:
    run_id = await ask(ctx, training.model_copy(update={"samples": 200_000}))
    async with working(ctx) as worker:
        await until(lambda run: run.stages[4].done > 0, ctx, run_id, worker)
        async with ctx.sessions.begin() as session:
            await cancel_run(session, run_id)
        cancelled = await row(ctx, run_id)
        assert cancelled.state == "cancelled"
        async with ctx.sessions.begin() as session:  # the worker may not have stopped yet
            await retry_run(session, run_id)
        await until(lambda run: run.state == "done", ctx, run_id, worker)
    assert (await row(ctx, run_id)).stages[4].seconds > cancelled.stages[4].seconds
