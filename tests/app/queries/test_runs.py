import math
from datetime import UTC, datetime

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from app.queries.runs import (
    MetricPoint,
    RunView,
    Stage,
    append_metrics,
    cancel_run,
    create_run,
    fail_run,
    finish_run,
    get_run,
    list_runs,
    metrics,
    set_job,
    set_sae,
    start_run,
    update_progress,
)
from tests.factories import make_sae

STAGES = (Stage("fetch", "Fetch the model"), Stage("train", "Train", total=1000, unit="samples"))


@pytest.fixture
async def run(session: AsyncSession) -> RunView:
    return await create_run(session, kind="train", title="Train", params={"k": 32}, stages=STAGES, created_by="ada")


async def reread(session: AsyncSession, run: RunView) -> RunView:
    found = await get_run(session, run.id)
    assert found
    return found


async def test_a_run_goes_from_queued_to_done(engine: AsyncEngine, session: AsyncSession, run: RunView) -> None:
    assert (run.state, run.stages, run.params, run.started_at) == ("queued", STAGES, {"k": 32}, None)
    await set_job(session, run.id, 2**40)
    assert await start_run(session, run.id)
    started = await reread(session, run)
    assert started.state == "running"
    assert started.started_at

    stages = (
        Stage("fetch", "Fetch the model", "done", 5, 5, "files", 1.5, datetime(2026, 1, 2, tzinfo=UTC)),
        Stage("train", "Train", "running", 10, 1000, "samples"),
    )
    assert await update_progress(session, run.id, stages)
    made = await make_sae(engine, publish=False)
    await set_sae(session, run.id, made.sae.id)
    await finish_run(session, run.id, {"explained_variance": 0.8, "ce": math.nan})
    done = await reread(session, run)
    assert (done.state, done.job_id, done.stages, done.sae_slug) == ("done", 2**40, stages, made.sae.slug)
    assert done.result == {"explained_variance": 0.8, "ce": None}
    assert done.finished_at


async def test_a_failed_run_keeps_its_error_and_can_be_resumed(session: AsyncSession, run: RunView) -> None:
    await start_run(session, run.id)
    first = await reread(session, run)
    await update_progress(session, run.id, [Stage("train", "Train", "running", 10, 1000)])
    await fail_run(session, run.id, "The disk is full: make room.\0")
    failed = await reread(session, run)
    assert (failed.state, failed.error) == ("failed", "The disk is full: make room.\ufffd")
    assert failed.stages[0].state == "failed"

    assert await start_run(session, run.id)
    again = await reread(session, run)
    assert (again.state, again.error, again.finished_at) == ("running", None, None)
    assert again.started_at == first.started_at


async def test_a_cancelled_run_stays_cancelled(session: AsyncSession, run: RunView) -> None:
    await start_run(session, run.id)
    assert await cancel_run(session, run.id)
    assert not await update_progress(session, run.id, STAGES), "this is how the worker hears of it"
    assert not await start_run(session, run.id)
    await finish_run(session, run.id, {})
    await fail_run(session, run.id, "late")
    assert not await cancel_run(session, run.id)
    cancelled = await reread(session, run)
    assert (cancelled.state, cancelled.error, cancelled.result) == ("cancelled", None, None)


async def test_a_resumed_run_does_not_duplicate_metrics(session: AsyncSession, run: RunView) -> None:
    await append_metrics(session, run.id, [MetricPoint(step, {"loss": 1.0}) for step in (0, 50, 100)])
    await append_metrics(session, run.id, [MetricPoint(100, {"loss": 0.5}), MetricPoint(150, {"loss": math.nan})])
    await append_metrics(session, run.id, [])
    assert await metrics(session, run.id) == [
        MetricPoint(0, {"loss": 1.0}),
        MetricPoint(50, {"loss": 1.0}),
        MetricPoint(100, {"loss": 0.5}),
        MetricPoint(150, {"loss": None}),
    ]
    assert [point.step for point in await metrics(session, run.id, after_step=50)] == [100, 150]


async def test_runs_are_listed_newest_first(session: AsyncSession, run: RunView) -> None:
    others = [
        await create_run(session, kind="index", title=f"{place}", params={}, stages=(), created_by="ada")
        for place in range(3)
    ]
    newest = [other.id for other in others[::-1]]
    found, following = await list_runs(session, limit=2)
    assert ([run.id for run in found], following) == (newest[:2], newest[1])
    found, following = await list_runs(session, limit=2, before=following)
    assert ([run.id for run in found], following) == ([newest[2], run.id], None)


async def test_an_unknown_run_is_none(session: AsyncSession) -> None:
    for number in (-1, 0, 7, 2**40):
        assert await get_run(session, number) is None
        assert await metrics(session, min(number, 7)) == []
