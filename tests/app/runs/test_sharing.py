"""Two workers with homes of their own, one database and one artifacts folder index one corpus together."""

import asyncio
import json
import shutil
import signal
from pathlib import Path

import pytest

from app.pipeline.index import IndexParams
from app.pipeline.train import TrainParams
from app.queries.runs import RunView
from app.runs.job_context import JobContext
from app.runs.spec import spec_of
from app.runs.submit import request_run
from app.services.actors import local_actor
from app.settings import Settings
from tests.app.pipeline.running import run_to_end
from tests.app.pipeline.test_shared_work import files, results, rows
from tests.app.runs.test_two_workers import pass_time
from tests.app.runs.workers import SECONDS, is_done, is_done_by, submitter_settings, until, worker
from tests.tiny import documents

pytestmark = pytest.mark.timeout(900)

TIMES = 20
"""How often the corpus has its texts: the model has to run for some seconds."""


@pytest.fixture
def settings(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    return submitter_settings(tmp_path, database_url, monkeypatch)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "texts.jsonl"
    lines = [
        json.dumps({**document, "title": f"{document['title']} {i}"}) for i in range(TIMES) for document in documents()
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.mark.parametrize("victim", ["helper", "owner"])
async def test_workers_index_one_corpus_together_and_one_that_is_killed_loses_nothing(
    ctx: JobContext, training: TrainParams, tmp_path: Path, corpus: Path, victim: str
) -> None:
    trained = await run_to_end(ctx, "train", training)
    shutil.rmtree(ctx.artifacts.activations_root)
    params = IndexParams(sae=trained.sae_slug, corpus=str(corpus), length=24)
    alone = await run_to_end(ctx, "index", params)
    expected, published = files(ctx.settings.artifacts), await rows(ctx)
    for name in expected:
        (ctx.settings.artifacts / name).unlink()
    caches = {Path(name).parent for name in expected if name.startswith("activations/")}
    shards = [ctx.settings.artifacts / name for name in expected if Path(name).parent in caches and "shard-" in name]

    async with ctx.sessions.begin() as session:
        actor = local_actor(ctx.settings)
        run = await request_run(session, spec_of("index"), params, settings=ctx.settings, actor=actor)
    async with worker(tmp_path / "first") as owner:
        await until(runs_the_model, ctx, run.id)
        owner.send_signal(signal.SIGSTOP)  # with one shard at most in its hands
        left = there(shards)
        assert left < len(shards) - 10
        async with worker(tmp_path / "second") as helper:
            await until_there(shards, left + 5 if victim == "helper" else len(shards) - 1)
            if victim == "helper":
                helper.send_signal(signal.SIGKILL)
                owner.send_signal(signal.SIGCONT)
                ended, other = helper, owner
            else:
                owner.send_signal(signal.SIGKILL)
                ended, other = owner, helper
            await ended.wait()
            if victim == "owner":
                await pass_time(ctx)
            together = await until(is_done, ctx, run.id)
            assert is_done_by(other, together)
    assert results(together) == results(alone)
    assert files(ctx.settings.artifacts) == expected
    assert await rows(ctx) == published


def runs_the_model(run: RunView) -> bool:
    return any(stage.name == "activations" and stage.state == "running" and stage.done for stage in run.stages)


def there(shards: list[Path]) -> int:
    return sum(path.exists() for path in shards)


async def until_there(shards: list[Path], number: int) -> None:
    """Wait until so many shards are there."""
    async with asyncio.timeout(SECONDS):
        while there(shards) < number:  # noqa: ASYNC110 (another process writes them)
            await asyncio.sleep(0.05)
