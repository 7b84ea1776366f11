"""Runs of the command line that another process does, until it does not."""

import asyncio

import pytest

from app.cli.local_runs import run_here
from app.pipeline.train import TRAIN, TrainParams
from app.queries import runs
from app.queries.runs import Stage
from app.queries.sql.locks import run_lock
from app.runs.job_context import JobContext
from app.runs.submit import submit_run
from app.services.actors import local_actor

pytestmark = pytest.mark.slow


class Shown:
    """A listener that says when stages are shown."""

    def __init__(self) -> None:
        self.once = asyncio.Event()

    def show(self, _stages: tuple[Stage, ...]) -> None:
        self.once.set()


async def test_a_run_is_taken_over_when_the_process_that_did_it_is_gone(ctx: JobContext, training: TrainParams) -> None:
    async with ctx.sessions.begin() as session:
        run = await submit_run(session, TRAIN, training, settings=ctx.settings, actor=local_actor(ctx.settings))
    shown = Shown()
    async with run_lock(ctx.engine, run.id) as held:
        assert held
        async with ctx.sessions.begin() as session:
            await runs.start_run(session, run.id)
        command = asyncio.create_task(run_here(ctx.settings, shown, TRAIN, training))
        async with asyncio.timeout(60):
            await shown.once.wait()  # it follows the other process
        assert not command.done()
    async with asyncio.timeout(120):
        done = await command
    assert (done.id, done.state) == (run.id, "done")
