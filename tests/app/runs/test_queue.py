"""What the queue leaves of runs whose process ended: each waits, runs or has failed, and none is lost."""

from types import SimpleNamespace

import pytest
from sqlalchemy import text

from app.pipeline.train import TRAIN, TrainParams
from app.queries import runs
from app.queries.runs import RunView
from app.queries.sql import locks
from app.runs import queue
from app.runs.context import RunInterrupted
from app.runs.job_context import JobContext
from app.runs.submit import request_run, submit_run
from app.services.actors import Actor

ACTOR = Actor("tester")


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
