"""Runs and the disk: what runs note, what gc leaves them, and the limit of the activation caches."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import text

from app.artifacts import size_of
from app.errors import Unprocessable
from app.pipeline.index import IndexParams
from app.pipeline.train import TrainParams
from app.queries.saes import get_sae
from app.runs.job_context import JobContext
from app.runs.queue import remove_deleted
from app.services.deletion import delete
from app.storage import removal
from tests.app.pipeline.running import run_to_end
from tests.tiny import CORPUS_FILE

SLUG = "tiny-llama-l1-batchtopk-64"


def indexing(length: int = 32) -> IndexParams:
    return IndexParams(sae=SLUG, corpus=str(CORPUS_FILE), length=length)


def caches(ctx: JobContext) -> set[Path]:
    return set((ctx.artifacts.root / "activations").iterdir())


def size(ctx: JobContext) -> int:
    """Bytes of all files but locks, which say who held them last."""
    return size_of(ctx.artifacts.root) - size_of(ctx.artifacts.root / "locks")


async def subjects(ctx: JobContext, run_id: int) -> list[str]:
    async with ctx.sessions() as session:
        found = await session.scalars(text(f"SELECT subject FROM run_use WHERE run_id = {run_id} ORDER BY subject"))
        return list(found)


async def test_gc_frees_caches_and_runs_make_them_again(ctx: JobContext, training: TrainParams) -> None:
    trained = await run_to_end(ctx, "train", training)
    indexed = await run_to_end(ctx, "index", indexing())
    kinds = [subject.partition("/")[0].partition(" ")[0] for subject in await subjects(ctx, trained.id)]
    assert kinds == ["activations", "corpus", "model", "sequences", "training"]
    kinds = [subject.partition("/")[0].partition(" ")[0] for subject in await subjects(ctx, indexed.id)]
    assert {"activations", "indexes"} <= set(kinds)

    before = size(ctx)
    garbage, unknown = await removal.unneeded(ctx.sessions, ctx.artifacts)
    assert unknown == []
    assert {item.category for item in garbage} == {"activations", "sequences"}
    removed = await removal.remove(ctx.sessions, garbage, holder="seesae gc")
    assert removed.size == before - size(ctx) > 0

    again = await run_to_end(ctx, "index", indexing())
    assert again.state == "done"
    assert again.result is not None
    assert indexed.result is not None
    assert again.result["l0"] == indexed.result["l0"]

    async with ctx.sessions.begin() as session:
        await delete(session, "sae", SLUG, ctx.artifacts)
    await remove_deleted(SimpleNamespace(additional_context={"ctx": ctx}), 0)  # as a worker does every minute
    for folder in ("saes", "indexes", "training"):
        assert not list((ctx.artifacts.root / folder).glob("*")), folder
    async with ctx.sessions() as session:
        assert await get_sae(session, SLUG) is None
    retrained = await run_to_end(ctx, "train", training)
    assert retrained.sae_slug == SLUG


async def test_a_run_evicts_older_caches_but_never_its_own(ctx: JobContext, training: TrainParams) -> None:
    await run_to_end(ctx, "train", training)
    [first] = caches(ctx)
    limited = replace(ctx, settings=ctx.settings.model_copy(update={"cache_limit": 1.5 * size_of(first) / 1e9}))
    await run_to_end(limited, "index", indexing())
    assert caches(ctx) == {first}
    await run_to_end(limited, "index", indexing(length=48))
    [second] = caches(ctx)
    assert second != first

    small = replace(ctx, settings=ctx.settings.model_copy(update={"cache_limit": 1e-6}))
    with pytest.raises(Unprocessable, match="SEESAE_CACHE_LIMIT"):
        await run_to_end(small, "index", indexing(length=40))
    assert caches(ctx) == {second}
