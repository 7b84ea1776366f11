"""Every kind of run, asked for by the API and the command line, and done by workers that have homes of their own."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import text
from typer.testing import CliRunner

from app.cli import app as commands
from app.cli.run_display import stderr_console
from app.pipeline.train import TrainParams
from app.queries import runs
from app.queries.runs import RunView
from app.queries.sql import locks
from app.runs import queue
from app.runs.job_context import JobContext
from app.runs.jobs import app as jobs_app
from app.settings import Settings, get_settings
from tests.app.pipeline.running import EXPORTS, run_row
from tests.tiny import CORPUS_FILE
from tests.web.site import site

SECONDS = 120.0


@pytest.fixture
def settings(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Of whoever asks: with a home of its own, and the database and artifacts of the workers."""
    for name in [name for name in os.environ if name.startswith("SEESAE_")]:
        monkeypatch.delenv(name)
    shared = {"SEESAE_DATABASE_URL": database_url, "SEESAE_ARTIFACTS": str(tmp_path / "artifacts")}
    for name, value in {**shared, "SEESAE_HOME": str(tmp_path / "home"), "SEESAE_DEVICE": "cpu"}.items():
        monkeypatch.setenv(name, value)
    get_settings.cache_clear()
    return get_settings()


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with site(settings) as client:
        yield client


@asynccontextmanager
async def worker(home: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """A worker with a home of its own; it inherits the rest of the environment."""
    environment = {**os.environ, "SEESAE_HOME": str(home), "OMP_NUM_THREADS": "1"}
    with home.with_suffix(".log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "app.cli", "worker", env=environment, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def seesae(*arguments: str) -> dict[str, Any]:
    """Run a command, in a thread, and return its JSON."""

    def invoke() -> dict[str, Any]:
        stderr_console.cache_clear()
        done = CliRunner().invoke(commands, [*arguments, "--json"])
        assert done.exit_code == 0, done.output
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    return await asyncio.to_thread(invoke)


async def until(condition: Callable[[RunView], bool], ctx: JobContext, run_id: int) -> RunView:
    async with asyncio.timeout(SECONDS):
        while not condition(run := await run_row(ctx, run_id)):
            assert run.state in ("queued", "running"), run
            await asyncio.sleep(0.05)
    return run


async def until_released(ctx: JobContext, run_id: int) -> None:
    """Wait until no process works on a run."""
    async with asyncio.timeout(SECONDS):
        while await locks.is_run_locked(ctx.engine, run_id):  # noqa: ASYNC110 (another process releases it)
            await asyncio.sleep(0.05)


def is_done(run: RunView) -> bool:
    return run.state == "done"


def is_training(run: RunView) -> bool:
    return run.state == "running" and any(
        stage.name == "train" and stage.state == "running" and stage.done for stage in run.stages
    )


def does(process: asyncio.subprocess.Process, run: RunView) -> bool:
    return run.worker is not None and run.worker.endswith(f", process {process.pid}")


def asked(params: TrainParams, **changes: object) -> list[str]:
    """Return a training as options."""
    given = params.model_copy(update=changes).model_dump(mode="json", exclude_defaults=True)
    return [
        part
        for name, value in given.items()
        for part in (
            f"--{name.replace('_', '-')}",
            ",".join(map(str, value)) if isinstance(value, list) else str(value),
        )
    ]


async def by_api(client: httpx.AsyncClient, kind: str, **params: object) -> int:
    answer = await client.post("/api/v1/runs", json={"kind": kind, "params": params})
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == f"/api/v1/runs/{answer.json()['id']}"
    return int(answer.json()["id"])


async def test_each_kind_is_asked_for_cancelled_tried_again_and_done(
    ctx: JobContext, client: httpx.AsyncClient, training: TrainParams, tmp_path: Path
) -> None:
    training = training.model_copy(update={"samples": 1_000})
    trainings = [
        int((await seesae("train", "--queue", *asked(training, name="one")))["run"]),
        await by_api(client, "train", **training.model_copy(update={"name": "two", "seed": 1}).model_dump(mode="json")),
    ]
    imports = [
        int((await seesae("import", str(EXPORTS / "saedashboard"), "--name", "three", "--queue"))["run"]),
        await by_api(client, "import", source=str(EXPORTS / "release"), name="four"),
    ]
    demos = [int((await seesae("demo", "--queue"))["run"]), await by_api(client, "demo", width=64)]
    for number, again in zip([*trainings, *imports, *demos], ["api", "command"] * 3, strict=True):
        if again == "api":
            assert (await client.post(f"/api/v1/runs/{number}/cancel")).json()["state"] == "cancelled"
            assert (await seesae("runs", "retry", str(number)))["state"] == "queued"
        else:
            assert (await seesae("runs", "cancel", str(number)))["state"] == "cancelled"
            assert (await client.post(f"/api/v1/runs/{number}/retry")).json()["state"] == "queued"
    for number in [*demos, imports.pop()]:  # demos fetch packages; one import is enough
        await seesae("runs", "cancel", str(number))

    async with worker(tmp_path / "first"):
        for number in [*trainings, *imports]:
            await until(is_done, ctx, number)
    on = {"corpus": str(CORPUS_FILE), "length": 32}
    options = ["--corpus", str(CORPUS_FILE), "--length", "32"]
    waiting = [
        await by_api(client, "index", sae="one", **on),
        int((await seesae("index", "two", *options, "--queue"))["run"]),
        await by_api(client, "evaluate", sae="one", predictions=64, **on),
        int((await seesae("evaluate", "two", "--predictions=64", *options, "--queue"))["run"]),
        await by_api(client, "compare", a="one", b="two"),
    ]
    compare = ("compare", "two", "one", "--queue")
    waiting.append(int((await seesae(*compare))["run"]))
    for number in waiting:
        assert (await client.post(f"/api/v1/runs/{number}/cancel")).status_code == 200
        assert (await seesae("runs", "retry", str(number)))["state"] == "queued"
    positions = [(await run_row(ctx, number)).queue_position for number in waiting]
    assert positions == [1, 2, 3, 4, 5, 6]
    for number in (waiting.pop(), waiting.pop(3)):  # one of either kind is enough
        await client.post(f"/api/v1/runs/{number}/cancel")

    # The second worker has another home, and finds what the first one wrote.
    async with worker(tmp_path / "second") as process:
        for number in waiting:
            assert does(process, await until(is_done, ctx, number))
    listed = (await client.get("/api/v1/runs", params={"state": "done", "kind": "index"})).json()["runs"]
    assert [run["sae"] for run in listed] == ["two", "one"]
    shown = await seesae("runs", "list", "--state", "cancelled")
    assert [run["kind"] for run in shown["runs"]] == ["compare", "evaluate", "demo", "demo", "import"]


async def test_a_run_is_cancelled_at_work_tried_again_killed_and_done(
    ctx: JobContext, client: httpx.AsyncClient, training: TrainParams, tmp_path: Path
) -> None:
    long = training.model_copy(update={"samples": 200_000})
    number = await by_api(client, "train", **long.model_dump(mode="json"))
    async with AsyncExitStack() as stack:
        processes = [await stack.enter_async_context(worker(tmp_path / name)) for name in ("first", "second")]
        await until(is_training, ctx, number)
        assert (await client.post(f"/api/v1/runs/{number}/cancel")).status_code == 200
        await until_released(ctx, number)
        assert (await run_row(ctx, number)).state == "cancelled"
        assert (await client.post(f"/api/v1/runs/{number}/retry")).status_code == 202

        run = await until(is_training, ctx, number)
        (doing,) = [process for process in processes if does(process, run)]
        (other,) = [process for process in processes if process is not doing]
        doing.send_signal(signal.SIGKILL)
        await doing.wait()
        await pass_time(ctx)
        assert does(other, await until(is_done, ctx, number))
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
