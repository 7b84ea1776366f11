"""A run between two workers: cancelled at work, retried, and finished by the one that is not killed.

`tests/e2e/test_second_worker.py` has a run of every kind.
"""

import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text

from app.pipeline.train import TrainParams
from app.queries import runs
from app.runs import queue
from app.runs.job_context import JobContext
from app.runs.jobs import app as jobs_app
from app.settings import Settings
from tests.app.pipeline.running import run_row
from tests.app.runs.workers import is_done, is_done_by, is_training, submitter_settings, until, until_released, worker
from tests.web.site import site


@pytest.fixture
def settings(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    return submitter_settings(tmp_path, database_url, monkeypatch)


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with site(settings) as client:
        yield client


@pytest.mark.timeout(600)
async def test_a_run_is_cancelled_at_work_tried_again_killed_and_done(
    ctx: JobContext, client: httpx.AsyncClient, training: TrainParams, tmp_path: Path
) -> None:
    long = training.model_copy(update={"samples": 200_000})
    answer = await client.post("/api/v1/runs", json={"kind": "train", "params": long.model_dump(mode="json")})
    number = int(answer.json()["id"])
    async with AsyncExitStack() as stack:
        processes = [await stack.enter_async_context(worker(tmp_path / name)) for name in ("first", "second")]
        await until(is_training, ctx, number)
        assert (await client.post(f"/api/v1/runs/{number}/cancel")).status_code == 200
        await until_released(ctx, number)
        assert (await run_row(ctx, number)).state == "cancelled"
        assert (await client.post(f"/api/v1/runs/{number}/retry")).status_code == 202

        run = await until(is_training, ctx, number)
        (doing,) = [process for process in processes if is_done_by(process, run)]
        (other,) = [process for process in processes if process is not doing]
        doing.send_signal(signal.SIGKILL)
        await doing.wait()
        await pass_time(ctx)
        assert is_done_by(other, await until(is_done, ctx, number))
    async with ctx.sessions() as session:
        steps = [point.step for point in await runs.metrics(session, number)]
    assert steps == sorted(set(steps))  # one curve over all attempts


async def pass_time(ctx: JobContext) -> None:
    """Do what a minute of silence does: the dead worker's heartbeat is old, and maintenance is due."""
    async with ctx.sessions.begin() as session:
        await session.execute(
            text(
                "UPDATE procrastinate_workers SET last_heartbeat = now() - interval '1 minute' "
                "WHERE id = (SELECT worker_id FROM procrastinate_jobs WHERE queue_name = 'runs' AND status = 'doing')"
            )
        )
    assert ctx.settings.database_url is not None
    with jobs_app.replace_connector(queue.connector(ctx.settings.database_url)) as app:
        async with app.open_async():
            await queue.retry_stalled.defer_async(timestamp=0)
