"""Calls for help: when workers answer, when they leave, and what becomes of the calls."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack

import procrastinate
import pytest
from sqlalchemy import text

from app.pipeline.train import TRAIN, TrainParams
from app.queries import runs
from app.queries.sql import locks
from app.runs import jobs, queue, sharing
from app.runs.context import RunContext
from app.runs.job_context import JobContext
from app.runs.jobs import app as jobs_app
from app.runs.submit import request_run, submit_run
from app.services.actors import Actor
from sae_core.shards import ShardWork

ACTOR = Actor("tester")
WORK = {"kind": "numbers"}


class Numbers:
    """Three shards; `before` is called before each is made."""

    sizes = (1, 1, 1)

    def __init__(self, before: Callable[[], None] = lambda: None) -> None:
        self.there: set[int] = set()
        self.before = before

    def made(self) -> set[int]:
        return set(self.there)

    def is_made(self, shard: int, /) -> bool:
        return shard in self.there

    def make(self, shard: int, progress: Callable[[int], None], /) -> None:
        self.before()
        progress(0)
        self.there.add(shard)


@pytest.fixture
async def app(database_url: str) -> AsyncIterator[procrastinate.App]:
    with jobs_app.replace_connector(queue.connector(database_url)) as app:
        async with app.open_async():
            yield app


@pytest.fixture
async def run_id(ctx: JobContext, training: TrainParams) -> int:
    """A run under way, by a command."""
    async with ctx.sessions.begin() as session:
        run = await submit_run(session, TRAIN, training, settings=ctx.settings, actor=ACTOR)
        await runs.start_run(session, run.id)
    return run.id


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], ShardWork]], None]:
    """Say what a worker opens."""
    monkeypatch.setattr(sharing, "_closed", set())

    def opens(open_work: Callable[[], ShardWork]) -> None:
        monkeypatch.setitem(sharing._OPENERS, "numbers", lambda _ctx, _work: open_work())

    return opens


async def calls(ctx: JobContext) -> list[str]:
    async with ctx.sessions() as session:
        found = await session.scalars(
            text("SELECT status::text FROM procrastinate_jobs WHERE queue_name = 'help' ORDER BY id")
        )
        return list(found)


async def until_calls(ctx: JobContext, *expected: str) -> None:
    async with asyncio.timeout(60):
        while await calls(ctx) != list(expected):  # noqa: ASYNC110 (a task writes them)
            await asyncio.sleep(0.02)


async def test_a_run_calls_once_while_it_works_and_no_longer(ctx: JobContext, run_id: int) -> None:
    async with ctx.sessions() as session:
        run = await runs.get_run(session, run_id)
    assert run is not None
    called = threading.Event()
    work = Numbers(before=lambda: called.wait(60))
    async with RunContext(run, ctx.sessions) as context, context.stage("activations"):
        async with sharing.shared(context, ctx, "activations", WORK) as make:
            assert await calls(ctx) == []  # there is nothing to do yet
            making = asyncio.create_task(asyncio.to_thread(make, work))
            await until_calls(ctx, "todo")
            async with ctx.sessions.begin() as session:
                await jobs.call_for_help(session, run_id, WORK)
            assert await calls(ctx) == ["todo"]
            called.set()
            await making
        assert await calls(ctx) == []


async def test_a_worker_makes_what_is_left_of_a_run_that_is_under_way(
    ctx: JobContext, run_id: int, opened: Callable[..., None]
) -> None:
    work = Numbers()
    opened(lambda: work)
    await sharing.help_run(ctx, run_id, WORK)
    assert work.there == {0, 1, 2}


@pytest.mark.parametrize("state", ["done", "cancelled", "queued"])
async def test_nobody_helps_a_run_that_is_not_under_way(
    ctx: JobContext, run_id: int, opened: Callable[..., None], state: str
) -> None:
    async with ctx.sessions.begin() as session:
        await session.execute(text("UPDATE run SET state = :state"), {"state": state})
    opened(lambda: pytest.fail("it was opened"))
    await sharing.help_run(ctx, run_id, WORK)
    assert sharing._closed == set()


@pytest.mark.parametrize("reason", ["cancelled", "another waits"])
async def test_a_worker_leaves_when_the_run_ends_or_another_waits(
    ctx: JobContext, run_id: int, training: TrainParams, opened: Callable[..., None], reason: str
) -> None:
    loop = asyncio.get_running_loop()
    seen: list[bool] = []
    never = threading.Event()

    async def change() -> None:
        async with ctx.sessions.begin() as session:
            if reason == "cancelled":
                await runs.cancel_run(session, run_id)
            else:
                other = training.model_copy(update={"seed": 7})
                await request_run(session, TRAIN, other, settings=ctx.settings, actor=ACTOR)

    def before() -> None:
        if not seen:
            seen.append(True)
            asyncio.run_coroutine_threadsafe(change(), loop).result(30)

    class Long(Numbers):
        def make(self, shard: int, progress: Callable[[int], None], /) -> None:
            self.before()
            for _ in range(600):  # until it is told to stop
                progress(0)
                never.wait(0.1)
            pytest.fail("it was not stopped")

    work = Long(before)
    opened(lambda: work)
    await asyncio.wait_for(sharing.help_run(ctx, run_id, WORK), 60)
    assert work.there == set()
    assert sharing._closed == set()


async def test_a_worker_that_cannot_open_a_work_does_not_try_again(
    ctx: JobContext, run_id: int, opened: Callable[..., None]
) -> None:
    tried: list[bool] = []

    def fails() -> ShardWork:
        tried.append(True)
        raise ValueError("no such model")

    opened(fails)
    await sharing.help_run(ctx, run_id, WORK)
    await sharing.help_run(ctx, run_id, WORK)
    assert tried == [True]


async def test_a_shard_that_another_process_has_is_left_to_it(ctx: JobContext) -> None:
    async with locks.shard_locks(ctx.engine, "work") as ours, locks.shard_locks(ctx.engine, "work") as theirs:

        def both() -> tuple[bool, bool, bool]:
            with ours(3) as first, theirs(3) as second, theirs(4) as other:
                return first, second, other

        assert await asyncio.to_thread(both) == (True, False, True)
        with ExitStack() as held:  # it was released
            assert await asyncio.to_thread(held.enter_context, theirs(3))
            await asyncio.to_thread(held.close)


async def test_the_call_that_a_killed_worker_had_taken_is_removed(
    ctx: JobContext, run_id: int, app: procrastinate.App
) -> None:
    async with ctx.sessions.begin() as session:
        await jobs.call_for_help(session, run_id, WORK)
        await session.execute(
            text("INSERT INTO procrastinate_workers (last_heartbeat) VALUES (now() - interval '1 h')")
        )
        await session.execute(
            text(
                "UPDATE procrastinate_jobs SET status = 'doing', "
                "worker_id = (SELECT max(id) FROM procrastinate_workers) WHERE queue_name = 'help'"
            )
        )
        assert await runs.count_helpers(session, run_id) == 1
    await queue.requeue_stalled(app, ctx.engine, seconds_since_heartbeat=30)
    assert await calls(ctx) == []
