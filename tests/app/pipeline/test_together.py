"""Commands that make the same artifacts at once, and are killed at any moment."""

import asyncio
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from app.pipeline import distributed
from app.pipeline.evaluate import EvaluateParams
from app.pipeline.index import IndexParams
from app.pipeline.train import TrainParams
from app.runs.context import RunContext, RunInterrupted
from app.runs.job_context import JobContext
from sae_core.locks import folder_lock
from tests.app.pipeline.running import run_row, run_to_end, submit
from tests.tiny import documents

SLUGS = ("first", "second")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "app.cli", *arguments]


def artifacts(home: Path) -> dict[str, str]:
    """Hash of every file that runs made, by path; of those that killed processes left too."""
    files = artifact_files(home)
    return {str(path.relative_to(home)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def artifact_files(home: Path) -> list[Path]:
    root = home / "artifacts"
    return [path for path in root.rglob("*") if path.is_file() and path.parent != root / "locks"]


def run_all(commands: list[list[str]], environment: dict[str, str], home: Path, kill_after: list[int]) -> int:
    """Run the commands at once until all are done; return how many were killed, each of which starts again.

    A random one is killed each time that the commands have made so many new files. One that ended in that instant does
    not count: another is killed.
    """
    chance, before, kills = random.Random(0), len(artifact_files(home)), 0
    running = {number: start(command, environment) for number, command in enumerate(commands)}
    while running:
        if kills < len(kill_after) and len(artifact_files(home)) - before >= kill_after[kills]:
            number = chance.choice(sorted(running))
            running[number].kill()
            running[number].wait()
        for number, process in list(running.items()):
            with suppress(subprocess.TimeoutExpired):
                _, stderr = process.communicate(timeout=0.02)
                if process.returncode == -signal.SIGKILL:
                    kills += 1
                    running[number] = start(commands[number], environment)
                else:
                    assert process.returncode == 0, stderr[-2000:]
                    del running[number]
    return kills


def start(command: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


@pytest.mark.timeout(900)  # seven processes import torch, which two cores of a busy machine take minutes for
async def test_two_indexes_and_an_evaluation_at_once_with_kills_end_with_equal_artifacts(
    ctx: JobContext, training: TrainParams, database_url: str, tmp_path: Path
) -> None:
    for number, slug in enumerate(SLUGS):
        await run_to_end(ctx, "train", training.model_copy(update={"name": slug, "seed": number}))
    home = ctx.settings.home
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SEESAE_")} | {
        "SEESAE_DATABASE_URL": database_url,
        "SEESAE_HOME": str(home),
        "SEESAE_DEVICE": "cpu",
        "OMP_NUM_THREADS": "1",
    }
    text = tmp_path / "new.txt"
    text.write_text("\n\n".join(document["text"] for document in documents() * 3))
    options = ["--corpus", str(text), "--length", "32"]
    commands = [command("index", slug, *options) for slug in SLUGS] + [command("evaluate", "first", *options)]
    before = artifacts(home)
    assert run_all(commands, environment, home, kill_after=[2, 12]) == 2
    disturbed = artifacts(home)
    assert len(disturbed) > len(before) + 20
    shutil.rmtree(home / "artifacts" / "sequences")
    shutil.rmtree(home / "artifacts" / "activations")
    shutil.rmtree(home / "artifacts" / "indexes")
    for corpus in (training.corpus, str(text)):
        await run_to_end(ctx, "evaluate", EvaluateParams(sae="first", corpus=corpus, length=32))
    for slug in SLUGS:
        await run_to_end(ctx, "index", IndexParams(sae=slug, corpus=str(text), length=32))
    assert artifacts(home) == disturbed


async def test_a_run_that_waits_for_another_says_so_and_can_be_stopped(ctx: JobContext, training: TrainParams) -> None:
    run = await run_row(ctx, await submit(ctx, "train", training))
    folder = ctx.artifacts.activations("key")
    titles: list[str] = []

    class Listener:
        def show(self, stages: object) -> None:
            titles.extend(stage.title for stage in stages if stage.name == "activations")  # type: ignore[attr-defined]
            if "waits" in titles[-1]:
                context.interrupt()

    context = RunContext(run, ctx.sessions, listener=Listener())
    with folder_lock(folder, "run 12"):
        async with context:
            with pytest.raises(RunInterrupted):
                async with context.lock("activations", folder, "these activations"):
                    raise AssertionError("the lock is held")
    assert "Run the model: waits for run 12, which makes these activations" in titles
    async with RunContext(run, ctx.sessions) as again, again.lock("activations", folder, "these activations"):
        pass


async def test_trainings_of_one_sae_at_once_train_it_once(
    ctx: JobContext, training: TrainParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainings = 0
    train = distributed.train

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal trainings
        trainings += 1
        return train(*arguments, **options)

    monkeypatch.setattr(distributed, "train", counted)
    same = training.model_copy(update={"track": ("tensorboard",)})
    done = await asyncio.gather(*(run_to_end(ctx, "train", params) for params in (training, same)))
    assert trainings == 1
    assert done[0].id != done[1].id
    assert {run.sae_slug for run in done} == {"tiny-llama-l1-batchtopk-64"}
