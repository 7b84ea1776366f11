"""Equal commands, one after the other and at once."""

import asyncio
import shutil
from pathlib import Path

import pytest
from sqlalchemy import text

from app.errors import Conflict, NotFound
from app.pipeline.train import TRAIN, TrainParams
from app.queries import runs
from app.queries.runs import RunView
from app.runs.execution import execute
from app.runs.job_context import JobContext
from app.runs.submit import cancel_run, request_run, retry_run, submit_run
from app.services.actors import Actor


async def submit(ctx: JobContext, params: TrainParams) -> RunView:
    async with ctx.sessions.begin() as session:
        return await submit_run(session, TRAIN, params, settings=ctx.settings, actor=Actor("tester"))


async def test_equal_commands_at_once_are_one_run(ctx: JobContext, training: TrainParams) -> None:
    submitted = await asyncio.gather(*(submit(ctx, training) for _ in range(5)))
    assert len({run.id for run in submitted}) == 1


async def test_a_command_with_other_parameters_is_another_run(ctx: JobContext, training: TrainParams) -> None:
    first = await submit(ctx, training)
    assert (await submit(ctx, training.model_copy(update={"seed": 1}))).id != first.id


async def test_an_unfinished_run_is_found_behind_many_newer_ones(ctx: JobContext, training: TrainParams) -> None:
    first = await submit(ctx, training)
    async with ctx.sessions.begin() as session:
        await runs.start_run(session, first.id)
        await runs.fail_run(session, first.id, "It was interrupted.")
        await session.execute(
            text(
                "INSERT INTO run (kind, title, params, stages, created_by) "
                "SELECT 'train', 'Train', '{}', '[]', 'tester' FROM generate_series(1, 600)"
            )
        )
    assert (await submit(ctx, training)).id == first.id


async def test_a_run_from_before_a_parameter_existed_is_continued(ctx: JobContext, training: TrainParams) -> None:
    first = await submit(ctx, training)
    async with ctx.sessions.begin() as session:
        await session.execute(text("UPDATE run SET params = params - 'precision' - 'options'"))
    assert (await submit(ctx, training)).id == first.id
    assert (await submit(ctx, training.model_copy(update={"precision": "tf32"}))).id != first.id


async def request(ctx: JobContext, params: TrainParams) -> RunView:
    async with ctx.sessions.begin() as session:
        return await request_run(session, TRAIN, params, settings=ctx.settings, actor=Actor("tester"))


async def jobs_waiting(ctx: JobContext) -> int:
    async with ctx.sessions() as session:
        return await session.scalar(text("SELECT count(*) FROM procrastinate_jobs WHERE status = 'todo'")) or 0


async def test_a_requested_run_waits_once_is_cancelled_and_tried_again(ctx: JobContext, training: TrainParams) -> None:
    run = await request(ctx, training)
    assert (await request(ctx, training)).id == run.id
    assert run.state == "queued"
    assert await jobs_waiting(ctx) == 1
    async with ctx.sessions.begin() as session:
        with pytest.raises(Conflict, match="queued already"):
            await retry_run(session, run.id)
        assert (await cancel_run(session, run.id)).state == "cancelled"
    assert await jobs_waiting(ctx) == 0
    async with ctx.sessions.begin() as session:
        with pytest.raises(Conflict, match="has ended"):
            await cancel_run(session, run.id)
        assert (await retry_run(session, run.id)).state == "queued"
    assert await jobs_waiting(ctx) == 1


async def test_a_run_that_does_not_exist_is_not_found(ctx: JobContext) -> None:
    async with ctx.sessions.begin() as session:
        with pytest.raises(NotFound):
            await cancel_run(session, 1)
        with pytest.raises(NotFound):
            await retry_run(session, 1)


async def test_a_run_whose_files_are_gone_is_refused_when_asked_again_and_when_it_begins(
    ctx: JobContext, training: TrainParams, tmp_path: Path
) -> None:
    corpus = tmp_path / "texts.jsonl"
    shutil.copy(training.corpus, corpus)
    moved = training.model_copy(update={"corpus": str(corpus)})
    run = await request(ctx, moved)
    corpus.unlink()
    with pytest.raises(NotFound, match="no corpus"):
        await execute(ctx, run.id)
    async with ctx.sessions() as session:
        failed = await runs.get_run(session, run.id)
    assert failed is not None
    assert failed.state == "failed"
    assert "no corpus" in (failed.error or "")
    assert all(stage.state == "waiting" for stage in failed.stages)
    with pytest.raises(NotFound, match="no corpus"):
        await request(ctx, moved)
