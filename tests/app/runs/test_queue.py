"""What the queue leaves of runs whose process ended: each waits, runs or has failed, and none is lost."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace

import procrastinate
import pytest
from procrastinate.jobs import Job
from sqlalchemy import text

from app.pipeline.train import TRAIN, TrainParams
from app.queries import runs
from app.queries.runs import RunView
from app.queries.sql import locks
from app.runs import queue
from app.runs.context import RunInterrupted, RunNotUnderstood
from app.runs.job_context import JobContext
from app.runs.jobs import app as jobs_app
from app.runs.submit import cancel_run, request_run, submit_run
from app.services.actors import Actor

ACTOR = Actor("tester")


@pytest.fixture
async def jobs(database_url: str) -> AsyncIterator[procrastinate.App]:
    with jobs_app.replace_connector(queue.connector(database_url)) as app:
        async with app.open_async():
            yield app


async def queued(ctx: JobContext, training: TrainParams) -> RunView:
    async with ctx.sessions.begin() as session:
        return await request_run(session, TRAIN, training, settings=ctx.settings, actor=ACTOR)


async def row(ctx: JobContext, run_id: int) -> RunView:
    async with ctx.sessions() as session:
        run = await runs.get_run(session, run_id)
    assert run is not None
    return run


async def take(ctx: JobContext, run_id: int) -> None:
    """Do a run as a worker does."""
    await queue.do_run.func(SimpleNamespace(additional_context={"ctx": ctx}), run_id)


def a_job(attempts: int) -> Job:
    return Job(id=1, queue="runs", lock=None, queueing_lock=None, task_name="run", attempts=attempts)


async def test_a_run_that_a_command_continued_and_lost_has_failed(ctx: JobContext, training: TrainParams) -> None:
    run = await queued(ctx, training)
    async with ctx.sessions.begin() as session:  # a worker tried, and its job is gone; then a command was killed
        await session.execute(text("DELETE FROM procrastinate_jobs"))
        await runs.start_run(session, run.id)
    async with locks.run_lock(ctx.engine, run.id):
        await queue.fail_abandoned(ctx)
        assert (await row(ctx, run.id)).state == "running"  # the command lives
    await queue.fail_abandoned(ctx)
    assert (await row(ctx, run.id)).state == "failed"


async def test_a_run_with_a_job_is_not_abandoned(ctx: JobContext, training: TrainParams) -> None:
    run = await queued(ctx, training)
    async with ctx.sessions.begin() as session:
        await runs.start_run(session, run.id)
    await queue.fail_abandoned(ctx)
    assert (await row(ctx, run.id)).state == "running"


async def test_a_run_whose_command_was_killed_before_it_began_has_failed(
    ctx: JobContext, training: TrainParams
) -> None:
    async with ctx.sessions.begin() as session:
        run = await submit_run(session, TRAIN, training, settings=ctx.settings, actor=ACTOR)
    await queue.fail_abandoned(ctx)
    assert (await row(ctx, run.id)).state == "queued"  # its command may be about to begin
    async with ctx.sessions.begin() as session:
        await session.execute(text("UPDATE run SET updated_at = now() - interval '2 minutes'"))
    await queue.fail_abandoned(ctx)
    assert (await row(ctx, run.id)).state == "failed"


async def test_a_run_whose_worker_stops_waits_in_its_place(
    ctx: JobContext, training: TrainParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = await queued(ctx, training)

    async def stopped(ctx: JobContext, run_id: int) -> None:
        async with ctx.sessions.begin() as session:
            await runs.start_run(session, run_id)
        raise RunInterrupted

    monkeypatch.setattr(queue, "execute", stopped)
    with pytest.raises(RunInterrupted):
        await take(ctx, run.id)
    waiting = await row(ctx, run.id)
    assert (waiting.state, waiting.queue_position) == ("queued", 1)


async def test_a_cancelled_run_of_a_dead_worker_stays_cancelled(
    ctx: JobContext, training: TrainParams, jobs: procrastinate.App
) -> None:
    run = await queued(ctx, training)
    job = await jobs.job_manager.fetch_job(queues=["runs"], worker_id=await jobs.job_manager.register_worker())
    assert job is not None
    async with ctx.sessions.begin() as session:
        await runs.start_run(session, run.id)
        await cancel_run(session, run.id)
    assert await queue.requeue_stalled(jobs, ctx.engine, 0) == [run.id]
    await take(ctx, run.id)
    assert (await row(ctx, run.id)).state == "cancelled"


async def test_a_run_of_a_dead_worker_waits_in_its_place(
    ctx: JobContext, training: TrainParams, jobs: procrastinate.App
) -> None:
    first = await queued(ctx, training)
    second = await queued(ctx, training.model_copy(update={"seed": 1}))
    assert await jobs.job_manager.fetch_job(queues=["runs"], worker_id=await jobs.job_manager.register_worker())
    async with ctx.sessions.begin() as session:
        await runs.start_run(session, first.id)
    assert (await row(ctx, second.id)).queue_position == 1
    await queue.requeue_stalled(jobs, ctx.engine, 0)
    assert [(await row(ctx, run.id)).queue_position for run in (first, second)] == [1, 2]


async def test_a_run_of_another_version_waits_for_a_worker_that_knows_it(
    ctx: JobContext, training: TrainParams, jobs: procrastinate.App
) -> None:
    run = await queued(ctx, training)
    for change in ("kind = 'dream'", "kind = 'train', params = params || '{\"dreams\": 1}'"):
        async with ctx.sessions.begin() as session:
            await session.execute(text(f"UPDATE run SET {change}"))
        with pytest.raises(RunNotUnderstood) as refused:
            await take(ctx, run.id)
        waiting = await row(ctx, run.id)
        assert (waiting.state, waiting.queue_position) == ("queued", 1)
        assert "another version of SeeSAE" in (waiting.error or "")
        decision = queue.RetryInfrastructure().get_retry_decision(exception=refused.value, job=a_job(attempts=100))
        assert decision is not None
        assert decision.retry_at is not None  # not at once, which would spin
    async with ctx.sessions.begin() as session:
        await session.execute(text("UPDATE run SET params = params - 'dreams'"))
    await take(ctx, run.id)
    done = await row(ctx, run.id)
    assert (done.state, done.error) == ("done", None)


async def test_ten_thousand_runs_wait_without_slowing_a_worker(
    ctx: JobContext, training: TrainParams, jobs: procrastinate.App
) -> None:
    async with ctx.sessions.begin() as session:
        for insert in (
            "INSERT INTO procrastinate_jobs (queue_name, task_name, lock, queueing_lock, args, status) SELECT 'runs', "
            "'run', 'run ' || n, 'run ' || n, jsonb_build_object('run_id', n), 'todo' "
            "FROM generate_series(1, 10000) n",
            "INSERT INTO run (kind, title, params, stages, created_by, job_id) "
            "SELECT 'train', 'Train', jsonb_build_object('seed', n), '[]', 'tester', n "
            "FROM generate_series(1, 10000) n",
        ):
            await session.execute(text(insert))
    last = await queued(ctx, training)
    assert last.queue_position == 10_001
    async with ctx.sessions() as session:
        assert [run.queue_position for run in (await runs.list_runs(session, limit=2))[0]] == [10_001, 10_000]
        assert len(await runs.list_active(session)) < 1000
    async with asyncio.timeout(5):  # seconds, where Postgres takes the queue for empty
        await queue.requeue_stalled(jobs, ctx.engine, 0)
        await queue.fail_abandoned(ctx)
        await queue.count_jobs(ctx.engine)
        worker_id = await jobs.job_manager.register_worker()
        taken = [await jobs.job_manager.fetch_job(queues=["runs"], worker_id=worker_id) for _ in range(20)]
    assert [job and job.task_kwargs for job in taken] == [{"run_id": n} for n in range(1, 21)]
