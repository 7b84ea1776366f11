"""Progress out of a thread into rows, and the ways to stop."""

import asyncio
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from app.object_store import ObjectStore, StoreAway
from app.queries import runs
from app.queries.runs import RunView, Stage
from app.runs.context import RunCancelled, RunContext, RunInterrupted, StageProgress
from app.runs.failures import explain, is_infrastructure
from app.runs.job_context import JobContext
from app.runs.spec import StageSpec

STAGES = (Stage("first", "First", unit="steps"), Stage("second", "Second"))


async def running(ctx: JobContext) -> RunView:
    async with ctx.sessions.begin() as session:
        run = await runs.create_run(session, kind="train", title="A run", params={}, stages=STAGES, created_by="tester")
        assert await runs.start_run(session, run.id)
    return await row(ctx, run.id)


async def row(ctx: JobContext, run_id: int) -> RunView:
    async with ctx.sessions() as session:
        run = await runs.get_run(session, run_id)
    assert run is not None
    return run


async def test_progress_of_a_thread_is_written_to_the_row(ctx: JobContext) -> None:
    def work(progress: StageProgress) -> str:
        for done in range(1, 11):
            progress(done, 10, {"loss": 1 / done})
        return "result"

    run = await running(ctx)
    async with RunContext(run, ctx.sessions) as context:
        async with context.stage("first", record=True) as progress:
            assert await context.in_thread(work, progress) == "result"
        written = (await row(ctx, run.id)).stages
    assert [(stage.state, stage.done, stage.total, stage.unit) for stage in written] == [
        ("done", 10, 10, "steps"),
        ("waiting", 0, 0, ""),
    ]
    async with ctx.sessions() as session:
        points = await runs.metrics(session, run.id)
    assert [point.step for point in points] == list(range(1, 11))
    assert points[3].values == {"loss": 0.25}


async def test_stages_say_what_they_are_about_also_after_an_attempt_that_was_killed(ctx: JobContext) -> None:
    context = RunContext(await running(ctx), ctx.sessions)
    context.retitle("first", "First: left by the killed attempt")
    with context.about("an SAE", [StageSpec("first", "First")]):
        assert context._stages["first"].title == "First: an SAE"
    assert context._stages["first"].title == "First"


async def test_only_a_recorded_stage_keeps_metrics(ctx: JobContext) -> None:
    run = await running(ctx)
    async with RunContext(run, ctx.sessions) as context, context.stage("first") as progress:
        progress(1, 2, {"loss": 1.0})
    async with ctx.sessions() as session:
        assert await runs.metrics(session, run.id) == []


async def test_counts_are_written_while_the_work_runs_and_seldom(ctx: JobContext) -> None:
    go_on = threading.Event()
    writes: list[int] = []

    class Listener:
        def show(self, stages: object) -> None:
            writes.append(len(writes))

    def work(progress: StageProgress) -> int:
        calls = 0
        while not go_on.is_set():
            calls += 1
            progress(calls, 0)
        return calls

    run = await running(ctx)
    async with RunContext(run, ctx.sessions, listener=Listener()) as context, context.stage("first") as progress:
        working = asyncio.create_task(context.in_thread(work, progress))
        async with asyncio.timeout(10):
            while (await row(ctx, run.id)).stages[0].done == 0:  # noqa: ASYNC110
                await asyncio.sleep(0)  # the row is what is waited for
        go_on.set()
        calls = await working
    assert calls > 100
    assert len(writes) < 20


async def test_cancelling_the_run_stops_the_thread(ctx: JobContext) -> None:
    run = await running(ctx)

    def work(progress: StageProgress) -> None:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            progress(1, 2)

    async def cancel() -> None:
        async with ctx.sessions.begin() as session:
            assert await runs.cancel_run(session, run.id)

    with pytest.raises(RunCancelled):
        async with RunContext(run, ctx.sessions) as context, context.stage("first") as progress:
            await asyncio.gather(context.in_thread(work, progress), cancel())
    assert (await row(ctx, run.id)).state == "cancelled"


async def test_cancelling_the_task_waits_for_the_thread(ctx: JobContext) -> None:
    ended = threading.Event()
    started = asyncio.Event()
    loop = asyncio.get_running_loop()
    run = await running(ctx)

    def work(progress: StageProgress) -> None:
        loop.call_soon_threadsafe(started.set)
        try:
            while True:
                progress(1, 2)
        finally:
            ended.set()

    async def attempt() -> None:
        async with RunContext(run, ctx.sessions) as context, context.stage("first") as progress:
            await context.in_thread(work, progress)

    task = asyncio.create_task(attempt())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()
    assert (await row(ctx, run.id)).stages[0].state == "waiting"


async def test_seconds_add_up_over_attempts_and_done_stages_stay_done(ctx: JobContext) -> None:
    run = await running(ctx)
    with pytest.raises(RunInterrupted):
        async with RunContext(run, ctx.sessions) as context:
            async with context.stage("first") as progress:
                progress(5, 5)
            async with context.stage("second"):
                context.interrupt()
                raise RunInterrupted
    before = await row(ctx, run.id)
    assert [stage.state for stage in before.stages] == ["done", "waiting"]
    async with RunContext(before, ctx.sessions) as context:
        async with context.stage("first"):
            pass
        seconds = context.seconds["first"]
    after = await row(ctx, run.id)
    assert after.stages[0].seconds > before.stages[0].seconds
    assert seconds == round(after.stages[0].seconds, 2)
    assert (after.stages[0].done, after.stages[0].total) == (5, 5)


async def test_an_error_marks_its_stage(ctx: JobContext) -> None:
    run = await running(ctx)
    with pytest.raises(ValueError, match="broken"):
        async with RunContext(run, ctx.sessions) as context, context.stage("first"):
            raise ValueError("broken")
    assert (await row(ctx, run.id)).stages[0].state == "failed"


async def test_a_stage_that_reports_nothing_has_its_seconds_in_the_row(ctx: JobContext) -> None:
    run = await running(ctx)
    async with RunContext(run, ctx.sessions) as context, context.stage("first"):
        await context._write()
        seconds = (await row(ctx, run.id)).stages[0].seconds
        await context._write()
        assert (await row(ctx, run.id)).stages[0].seconds > seconds > 0


async def test_what_stages_are_expected_to_take_is_in_the_row(ctx: JobContext) -> None:
    run = await running(ctx)
    async with RunContext(run, ctx.sessions) as context:
        async with context.stage("first"):
            pass
        context.expect({"first": 1.0, "second": 2.5, "of another kind of run": 3.0})
    assert [stage.expected for stage in (await row(ctx, run.id)).stages] == [None, 2.5]


async def test_machines_take_turns_at_a_folder_and_one_goes_on_from_what_the_other_left(
    ctx: JobContext,
    tmp_path: Path,
    bucket: str,
) -> None:
    stores = [ObjectStore(bucket, tmp_path / name) for name in ("one", "two")]
    contexts = [RunContext(await running(ctx), ctx.sessions, store=store) for store in stores]
    folders = [store.root / "activations" / "0123" for store in stores]
    waits = asyncio.Event()
    contexts[1]._listener = Waits(waits)

    async def second() -> dict[str, str]:
        async with contexts[1], contexts[1].lock("first", folders[1], "these activations"):
            return {path.name: path.read_text() for path in folders[1].iterdir() if not path.name.startswith(".")}

    with pytest.raises(ZeroDivisionError):
        async with contexts[0], contexts[0].lock("first", folders[0], "these activations"):
            folders[0].mkdir(parents=True)
            (folders[0] / "shard").write_text("1")
            waiting = asyncio.create_task(second())
            await asyncio.wait_for(waits.wait(), 60)
            raise ZeroDivisionError
    assert await waiting == {"shard": "1"}


class Waits:
    """Tells that a stage waits for another machine."""

    def __init__(self, event: asyncio.Event) -> None:
        self.event = event

    def show(self, stages: Sequence[Stage]) -> None:
        if "waits for a process of another machine, which makes these activations" in stages[0].title:
            self.event.set()


async def test_a_run_that_cannot_push_what_it_made_is_not_done(
    ctx: JobContext,
    tmp_path: Path,
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def away(*_: object) -> None:
        raise StoreAway("It does not answer.")

    context = RunContext(await running(ctx), ctx.sessions, store=ObjectStore(bucket, tmp_path / "one"))
    monkeypatch.setattr(ObjectStore, "push", away)
    with pytest.raises(StoreAway) as caught:
        async with context, context.lock("first", tmp_path / "one" / "activations" / "0123", "these activations"):
            pass
    assert is_infrastructure(caught.value)
    assert explain(caught.value) == "It does not answer."
