"""Runs whose database is killed, or whose object store goes away, and comes back: real servers, a real kill."""

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import fsspec
import psycopg
import pytest
from moto.server import ThreadedMotoServer

from app.cli.local_runs import open_job_context
from app.errors import UserError
from app.object_store import ObjectStore
from app.pipeline.train import TRAIN, TrainParams
from app.queries import runs
from app.queries.runs import RunView
from app.runs import execution, outages
from app.runs.execution import execute
from app.runs.job_context import JobContext
from app.runs.jobs import enqueue
from app.runs.submit import submit_run
from app.schema import upgrade
from app.services.actors import Actor
from app.settings import Settings
from app.supervision.embedded_postgres import embedded_postgres
from app.supervision.postgres_server import PostgresServer
from tests.app.pipeline.running import run_row, submit
from tests.bucket import connect

SECONDS = 90.0


@pytest.fixture
def training(training: TrainParams) -> TrainParams:
    """A training that is long enough to lose its database in the middle."""
    return training.model_copy(update={"samples": 300_000})


def kill(home: Path) -> None:
    """Kill the server as the kernel does when memory is short."""
    postmaster = PostgresServer(home / "postgres").postmaster()
    assert postmaster is not None
    postmaster.kill()


async def restart(home: Path) -> None:
    async with asyncio.timeout(SECONDS):
        while True:  # its other processes may still be ending
            with suppress(UserError, psycopg.Error):
                await asyncio.to_thread(PostgresServer(home / "postgres").start, threading.Event())
                return
            await asyncio.sleep(0.1)


@asynccontextmanager
async def command(settings: Settings, log: Path, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    environment = {
        **os.environ,
        "SEESAE_DATABASE_URL": settings.database_url or "",  # an empty one is none
        "SEESAE_HOME": str(settings.home),
        "SEESAE_DEVICE": "cpu",
        "OMP_NUM_THREADS": "1",
    }
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "app.cli", *arguments, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def until(condition: Callable[[RunView], bool], ctx: JobContext, process: asyncio.subprocess.Process) -> RunView:
    """Wait until the only run fulfils a condition; fail at once if its process ends."""
    async with asyncio.timeout(SECONDS):
        while True:
            async with ctx.sessions() as session:
                found, _ = await runs.list_runs(session)
            if found and condition(found[0]):
                return found[0]
            assert process.returncode is None, "the process ended"
            await asyncio.sleep(0.05)


def is_training(run: RunView) -> bool:
    return run.stages[4].name == "train" and run.stages[4].state == "running" and run.stages[4].done > 0


@pytest.mark.parametrize("by", ["command", "lone command", "worker"])
async def test_a_run_goes_on_when_its_killed_database_is_back(
    home: Path, tmp_path: Path, training: TrainParams, by: str
) -> None:
    log = tmp_path / "log"
    with embedded_postgres(home) as url:
        upgrade(url)
        settings = Settings(home=tmp_path, database_url=url, device="cpu")
        if by == "lone command":  # it keeps the database running itself
            settings = Settings(home=home, device="cpu")
        async with open_job_context(settings, url) as ctx:
            if by == "worker":
                async with ctx.sessions.begin() as session:
                    run = await submit_run(session, TRAIN, training, settings=ctx.settings, actor=Actor("tester"))
                    await enqueue(session, run.id)
                arguments = ["worker"]
            else:
                config = tmp_path / "train.toml"
                given = training.model_dump(
                    mode="json", include={"model", "hook", "corpus", "length", "samples", "batch_size"}
                )
                config.write_text("".join(f"{name} = {value!r}\n" for name, value in given.items()))
                arguments = ["train", "--config", str(config), "--width", "64", "--k", "4"]
            async with command(settings, log, *arguments) as process:
                before = await until(is_training, ctx, process)
                kill(home)
                if by != "lone command":
                    await restart(home)
                await outages.wait_for_database(ctx.engine)
                reached = before.stages[4].done
                await until(lambda run: run.state == "done" or run.stages[4].done > reached, ctx, process)
                if by != "worker":
                    assert await asyncio.wait_for(process.wait(), SECONDS) == 0, log.read_text()
                done = await until(lambda run: run.state == "done", ctx, process)
    assert done.error is None
    assert "Traceback" not in log.read_text()


async def test_a_run_goes_on_when_an_object_store_that_went_away_is_back(
    ctx: JobContext, training: TrainParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as running:
        server = start_server(running)
        host, port = server.get_host_and_port()
        connect(monkeypatch, f"http://{host}:{port}")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        fsspec.url_to_fs("s3://outage")[0].mkdir("outage")
        ctx = replace(ctx, settings=ctx.settings.model_copy(update={"artifacts": "s3://outage/sae"}))
        away = asyncio.Event()

        async def noted(store: ObjectStore) -> None:
            away.set()
            await outages.wait_for_store(store)

        monkeypatch.setattr(execution, "wait_for_store", noted)
        run_id = await submit(ctx, "train", training.model_copy(update={"samples": 60_000}))
        run = asyncio.create_task(execute(ctx, run_id))
        async with asyncio.timeout(SECONDS):
            while not is_training(await run_row(ctx, run_id)):  # noqa: ASYNC110 (a thread reports)
                await asyncio.sleep(0.05)
        await asyncio.to_thread(server.stop)
        await asyncio.wait({run, asyncio.create_task(away.wait())}, return_when=asyncio.FIRST_COMPLETED)
        assert not run.done()
        start_server(running, port)
        await asyncio.wait_for(run, SECONDS)
        done = await run_row(ctx, run_id)
        assert (done.state, done.error) == ("done", None)
        store = ctx.artifacts.store
        assert store is not None
        assert f"saes/{done.sae_slug}" in store.products()
        assert not any(name.startswith("training/") for name in store.products())


def start_server(running: ExitStack, port: int = 0) -> ThreadedMotoServer:
    """Start a server that speaks S3; another on the same port has the same files."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    server.get_host_and_port()  # waits until it listens
    running.callback(server.stop)
    return server
