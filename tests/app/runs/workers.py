"""Workers in processes of their own, with homes of their own, and how to wait for what they do."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from app.cli import app as commands
from app.cli.run_display import stderr_console
from app.cli.run_options import flags, is_argument
from app.queries.runs import RunView
from app.queries.sql import locks
from app.runs.job_context import JobContext
from app.runs.spec import spec_of
from app.settings import Settings, get_settings
from tests.app.pipeline.running import run_row

SECONDS = 240.0
"""Workers are nice: on a busy machine they take several times as long as alone."""


def submitter_settings(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch, artifacts: str | None = None
) -> Settings:
    """Settings of the process that submits, also in the environment: a home of its own, the workers' database and
    artifacts, by default a folder."""
    for name in [name for name in os.environ if name.startswith("SEESAE_")]:
        monkeypatch.delenv(name)
    shared = {"SEESAE_DATABASE_URL": database_url, "SEESAE_ARTIFACTS": artifacts or str(tmp_path / "artifacts")}
    for name, value in {**shared, "SEESAE_HOME": str(tmp_path / "home"), "SEESAE_DEVICE": "cpu"}.items():
        monkeypatch.setenv(name, value)
    get_settings.cache_clear()
    return get_settings()


@asynccontextmanager
async def worker(home: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """A worker with a home of its own, as on a machine of its own; it inherits the rest of the environment."""
    own = {"SEESAE_HOME": str(home), "SEESAE_MACHINE": home.name, "OMP_NUM_THREADS": "1"}
    environment = {**os.environ, **own}
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
    """Wait until a run meets a condition; one that ends otherwise is an error."""
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


def is_done_by(process: asyncio.subprocess.Process, run: RunView) -> bool:
    """True if this worker did the run, or does it."""
    return run.worker is not None and run.worker.endswith(f", process {process.pid}")


def as_arguments(kind: str, params: Mapping[str, object]) -> list[str]:
    """Return parameters as arguments and options of the command of their kind."""
    fields = spec_of(kind).params.model_fields
    arguments = [str(value) for name, value in params.items() if is_argument(fields[name])]
    options = {name: value for name, value in params.items() if not is_argument(fields[name])}
    return [*arguments, *(part for name, value in options.items() for part in (flags(name, fields[name]), str(value)))]
