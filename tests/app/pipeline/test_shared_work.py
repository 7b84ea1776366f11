"""Shared works as a second worker opens them: it makes shards of every kind, with the bytes that one process makes."""

import asyncio
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from app.errors import Conflict
from app.pipeline import shared_work
from app.pipeline.index import IndexParams
from app.pipeline.train import TrainParams
from app.queries.runs import RunView
from app.runs import sharing
from app.runs.context import RunContext
from app.runs.job_context import JobContext
from sae_core.activations.cache import CacheShards
from sae_core.files import sha256_file
from sae_core.statistics import ranges
from sae_core.statistics.ranges import RangeShards
from sae_core.store.activation_store import StoreShards
from tests.app.pipeline.running import run_to_end
from tests.tiny import CORPUS_FILE

KINDS = {"forward": CacheShards, "encode": StoreShards, "statistics": RangeShards}


def files(root: Path) -> dict[str, str]:
    """Hashes of all activations and stores; the file of their last use has no bytes."""
    paths = [path for name in ("activations", "indexes") for path in (root / name).rglob("*") if path.is_file()]
    return {str(path.relative_to(root)): sha256_file(path) for path in paths}


async def rows(ctx: JobContext) -> dict[str, list[Any]]:
    """The published rows of the newest index, but for its number."""
    async with ctx.sessions() as session:
        return {
            table: list(
                await session.scalars(
                    text(
                        f"SELECT to_jsonb(t) - 'index_id' FROM {table} AS t "
                        f"WHERE index_id = (SELECT max(index_id) FROM {table}) ORDER BY 1"
                    )
                )
            )
            for table in ("feature", "example_band")
        }


@pytest.fixture
async def params(ctx: JobContext, training: TrainParams) -> IndexParams:
    """An index for which the model has to run."""
    trained = await run_to_end(ctx, "train", training)
    shutil.rmtree(ctx.artifacts.activations_root)
    assert trained.sae_slug is not None
    return IndexParams(sae=trained.sae_slug, corpus=str(CORPUS_FILE), length=24)


@pytest.fixture(autouse=True)
def several_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranges of a few features, as of an SAE of many."""
    monkeypatch.setattr(ranges, "coactive_rows", lambda store: store.d_sae // 3)


class Helped:
    """A run whose first shard of each kind is not made before another machine has made all others."""

    def __init__(self, ctx: JobContext, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: dict[str, list[int]] = {kind: [] for kind in KINDS}
        self.ctx = replace(ctx, settings=ctx.settings.model_copy(update={"machine": "another"}))
        self.ended = {kind: threading.Event() for kind in KINDS}
        for kind, shards in KINDS.items():
            monkeypatch.setattr(shards, "make", self.waiting(kind, shards.make))
        monkeypatch.setattr(sharing, "_call", self.call)

    def waiting(self, kind: str, make: Callable[..., None]) -> Callable[..., None]:
        def made_in_turn(work: Any, shard: int, progress: Any) -> None:
            self.made[kind].append(shard)
            if len(self.made[kind]) == 1:  # of the run: the other is called when it has taken this one
                assert self.ended[kind].wait(60)
            make(work, shard, progress)

        return made_in_turn

    async def call(
        self, run: RunContext, ctx: JobContext, stage: str, work: sharing.Work, begun: asyncio.Event
    ) -> None:
        await begun.wait()
        await sharing.help_run(self.ctx, run.run_id, work)
        self.ended[work["kind"]].set()


async def test_another_machine_makes_shards_of_every_kind_with_the_bytes_of_one(
    ctx: JobContext, params: IndexParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = await run_to_end(ctx, "index", params)
    expected, published = files(ctx.settings.artifacts), await rows(ctx)
    for path in [ctx.settings.artifacts / name for name in expected]:
        path.unlink()
    helped = Helped(ctx, monkeypatch)
    together = await run_to_end(ctx, "index", params)
    assert files(ctx.settings.artifacts) == expected
    assert await rows(ctx) == published
    assert results(together) == results(alone)
    for made in helped.made.values():
        assert len(made) > 2
        assert sorted(made) == list(range(len(made)))  # each once
        assert made[:2] == [0, 1]


def results(run: RunView) -> dict[str, Any]:
    assert run.result is not None
    return {name: value for name, value in run.result.items() if name != "seconds"}


async def test_a_machine_that_would_write_other_bytes_does_not_help(
    ctx: JobContext, params: IndexParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    works: list[sharing.Work] = []

    async def note(_run: RunContext, _ctx: JobContext, _stage: str, work: sharing.Work, begun: asyncio.Event) -> None:
        await begun.wait()
        works.append(work)

    monkeypatch.setattr(sharing, "_call", note)
    await run_to_end(ctx, "index", params)
    forward, encode, statistics = works
    with pytest.raises(Conflict, match="another version"):
        shared_work.open_encode(ctx, {**encode, "code": "0"})
    with pytest.raises(Conflict, match="Give all workers the same SEESAE_ARTIFACTS"):
        shared_work.open_statistics(ctx, {**statistics, "sequences": "elsewhere"})
    with pytest.raises(Conflict, match="another kind of device"):
        shared_work.open_forward(ctx, {**forward, "identity": {**forward["identity"], "device": "cuda"}})


async def test_a_second_process_of_a_machine_does_not_help(
    ctx: JobContext, params: IndexParams, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered: list[str] = []

    async def call(run: RunContext, ctx: JobContext, _stage: str, work: sharing.Work, begun: asyncio.Event) -> None:
        await begun.wait()
        await sharing.help_run(ctx, run.run_id, work)
        answered.append(work["kind"])

    monkeypatch.setattr(sharing, "_call", call)
    monkeypatch.setattr(sharing, "_help", None)  # would fail
    await run_to_end(ctx, "index", params)
    assert answered
