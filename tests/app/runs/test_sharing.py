"""Two workers with homes of their own, one database and one artifacts folder, or bucket, index one corpus together."""

import asyncio
import hashlib
import json
import signal
from collections.abc import Iterable
from pathlib import Path

import fsspec
import pytest

from app.inference.residency import Residency
from app.pipeline.index import IndexParams
from app.pipeline.train import TrainParams
from app.queries.runs import RunView
from app.queries.saes import get_sae
from app.runs.job_context import JobContext
from app.runs.spec import spec_of
from app.runs.submit import request_run
from app.services.actors import local_actor
from app.services.inference_messages import SaeRef
from app.settings import Settings
from tests.app.pipeline.running import run_to_end
from tests.app.pipeline.test_shared_work import files, results, rows
from tests.app.runs.test_two_workers import pass_time
from tests.app.runs.workers import SECONDS, is_done, is_done_by, submitter_settings, until, worker
from tests.tiny import documents

pytestmark = pytest.mark.timeout(900)

TIMES = {"folder": 20, "bucket": 10}
"""How often the corpus repeats its texts, so that the model runs for some seconds: half as often with a bucket, because
each shard takes several requests there."""


class Common:
    """The artifacts that the workers have in common."""

    def __init__(self, settings: Settings) -> None:
        self.folder = settings.artifacts_folder
        self.bucket = (
            None if settings.object_store is None else fsspec.url_to_fs(settings.object_store, use_listings_cache=False)
        )

    def files(self) -> dict[str, str]:
        """Hashes of all activations and stores, but for what the killed one had begun: the next lock removes it."""
        if self.bucket is None:
            return {name: sha256 for name, sha256 in files(self.folder).items() if not name.endswith(".tmp")}
        system, root = self.bucket
        beginnings = (f"{root}/activations/", f"{root}/indexes/")
        paths = [path for path in self.there() if path.startswith(beginnings)]
        return {
            path.removeprefix(f"{root}/"): hashlib.sha256(content).hexdigest()
            for path, content in (system.cat(paths) if paths else {}).items()
        }

    def there(self, below: str = "") -> set[str]:
        """Places of all files in a folder."""
        if self.bucket is None:
            return {str(path) for path in (self.folder / below).rglob("*")}
        system, root = self.bucket
        return set(system.find(f"{root}/{below}"))

    def place(self, name: str) -> str:
        return f"{self.folder if self.bucket is None else self.bucket[1]}/{name}"

    def remove(self, names: Iterable[str]) -> None:
        places = [self.place(name) for name in names]
        if self.bucket is None:
            for place in places:
                Path(place).unlink()
        elif places:
            self.bucket[0].rm(places)


@pytest.fixture(params=["folder", "bucket"])
def settings(
    request: pytest.FixtureRequest, tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> Settings:
    artifacts = request.getfixturevalue("bucket") if request.param == "bucket" else None
    return submitter_settings(tmp_path, database_url, monkeypatch, artifacts)


@pytest.fixture
def common(settings: Settings) -> Common:
    return Common(settings)


@pytest.fixture
def corpus(tmp_path: Path, common: Common) -> Path:
    path = tmp_path / "texts.jsonl"
    times = TIMES["folder" if common.bucket is None else "bucket"]
    lines = [
        json.dumps({**document, "title": f"{document['title']} {i}"}) for i in range(times) for document in documents()
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.mark.parametrize("victim", ["helper", "owner"])
async def test_workers_index_one_corpus_together_and_one_that_is_killed_loses_nothing(
    ctx: JobContext, training: TrainParams, tmp_path: Path, corpus: Path, common: Common, victim: str
) -> None:
    trained = await run_to_end(ctx, "train", training)
    common.remove(common.files())
    params = IndexParams(sae=trained.sae_slug, corpus=str(corpus), length=24)
    alone = await run_to_end(ctx, "index", params)
    expected, published = common.files(), await rows(ctx)
    common.remove(expected)
    shards = {common.place(name) for name in expected if name.startswith("activations/") and "shard-" in name}

    def there() -> int:
        return len(shards & common.there("activations"))

    async def until_there(number: int) -> None:
        async with asyncio.timeout(SECONDS):
            while await asyncio.to_thread(there) < number:  # noqa: ASYNC110 (another process writes them)
                await asyncio.sleep(0.05)

    async with ctx.sessions.begin() as session:
        actor = local_actor(ctx.settings)
        run = await request_run(session, spec_of("index"), params, settings=ctx.settings, actor=actor)
    async with worker(tmp_path / "first") as owner:
        await until(runs_the_model, ctx, run.id)
        owner.send_signal(signal.SIGSTOP)  # with one shard at most in its hands
        left = there()
        assert left < len(shards) - 10
        async with worker(tmp_path / "second") as helper:
            await until_there(left + 5 if victim == "helper" else len(shards) - 1)
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
    assert common.files() == expected
    assert await rows(ctx) == published
    await opens_on_another_machine(ctx, tmp_path / "third", together)


async def opens_on_another_machine(ctx: JobContext, home: Path, run: RunView) -> None:
    """Open the SAE and the store of its index as an inference process does that has seen no file yet."""
    assert run.sae_slug is not None
    async with ctx.sessions() as session:
        sae = await get_sae(session, run.sae_slug)
    assert sae is not None
    assert sae.index is not None
    third = Residency(ctx.settings.model_copy(update={"home": home}))
    assert await asyncio.to_thread(lambda: third.store(sae, sae.index).d_sae) == sae.d_sae
    reference = SaeRef.of(sae)
    for _ in range(2):
        with third.use(reference) as (_, opened):
            assert opened.d_sae == sae.d_sae
    assert third.modules.loads == 2  # the model and the SAE, once each


def runs_the_model(run: RunView) -> bool:
    return any(stage.name == "activations" and stage.state == "running" and stage.done for stage in run.stages)
