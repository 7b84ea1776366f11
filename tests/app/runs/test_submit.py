"""Equal commands, one after the other and at once."""

import asyncio

from sqlalchemy import text

from app.pipeline.train import TRAIN, TrainParams
from app.queries import runs
from app.queries.runs import RunView
from app.runs.job_context import JobContext
from app.runs.submit import submit_run
from app.services.actors import Actor


async def submit(ctx: JobContext, params: TrainParams) -> RunView:
    async with ctx.sessions.begin() as session:
        return await submit_run(session, TRAIN, params, actor=Actor("tester"))


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
