"""Comparing SAEs that were trained and indexed for real, tiny as they are."""

import shutil
from pathlib import Path

import pytest
from sqlalchemy import text

from app.errors import NotFound, Unprocessable
from app.pipeline import comparison
from app.pipeline.compare import CompareParams
from app.pipeline.index import IndexParams
from app.pipeline.train import TrainParams
from app.queries.comparisons import ComparisonView, get_comparison, get_counterparts, get_parts, list_counterparts
from app.queries.saes import SaeDetail, get_sae
from app.runs.context import RunInterrupted, StageProgress
from app.runs.execution import execute
from app.runs.job_context import JobContext
from tests.app.pipeline.running import run_row, run_to_end, submit
from tests.tiny import CORPUS_FILE, tiny_model

NARROW, WIDE = "tiny-llama-l1-batchtopk-64", "tiny-llama-l1-batchtopk-128"
BOTH = CompareParams(a=WIDE, b=NARROW)


def indexing(slug: str, length: int = 32) -> IndexParams:
    return IndexParams(sae=slug, corpus=str(CORPUS_FILE), length=length)


async def sae(ctx: JobContext, slug: str) -> SaeDetail:
    async with ctx.sessions() as session:
        found = await get_sae(session, slug)
    assert found is not None
    return found


async def compared(ctx: JobContext, this: str = WIDE, other: str = NARROW) -> ComparisonView | None:
    async with ctx.sessions() as session:
        return await get_comparison(session, await sae(ctx, this), await sae(ctx, other))


@pytest.fixture
async def trained(ctx: JobContext, training: TrainParams) -> JobContext:
    await run_to_end(ctx, "train", training.model_copy(update={"width": (64, 128)}))
    return ctx


async def test_indexing_compares_with_the_other_saes_of_the_same_text(trained: JobContext) -> None:
    first = await run_to_end(trained, "index", indexing(NARROW))
    assert first.stages[-1].name == "compare"
    assert first.stages[-1].state == "done"
    assert await compared(trained) is None  # there was nobody to compare it with
    await run_to_end(trained, "index", indexing(WIDE))
    found = await compared(trained)
    assert found is not None
    narrow, wide = await sae(trained, NARROW), await sae(trained, WIDE)
    assert narrow.index is not None
    assert found.tokens == narrow.index.tokens
    assert found.is_of(narrow, wide)
    assert (found.this["features"], found.other["features"]) == (128, 64)
    assert found.this["matched_by_activity"] == found.other["matched_by_activity"] > 0
    assert found.this["matched_by_direction"] == found.other["matched_by_direction"] > 0

    async with trained.sessions() as session:
        counts = dict(
            (
                await session.execute(
                    text("SELECT number, count FROM feature WHERE index_id = :id").bindparams(id=narrow.index.id)
                )
            ).all()
        )
        ours = await get_counterparts(session, found, range(64), of_other=True)
        split = await list_counterparts(session, found, "split", of_other=True)
        theirs = await get_counterparts(session, found, range(128))
        for feature, own in ours.items():
            if own.coactive is not None:
                assert own.coactive.joint is not None
                assert own.coactive.given_this == pytest.approx(own.coactive.joint / counts[feature])
                if own.coactive_matched:
                    back = theirs[own.coactive.index].coactive
                    assert back is not None
                    assert (back.index, back.given_other) == (feature, own.coactive.given_this)
        assert sorted(row.feature for row in split.rows) == [i for i, own in ours.items() if own.parts > 1]
        turned = await get_comparison(session, narrow, wide)
        assert turned is not None
        for feature, own in ours.items():
            parts = await get_parts(session, turned, feature)
            assert len(parts) == own.parts
            assert all(part.parent is not None and part.parent.index == feature for part in parts)


async def test_a_comparison_is_symmetric_and_made_once(trained: JobContext, monkeypatch: pytest.MonkeyPatch) -> None:
    await run_to_end(trained, "index", indexing(NARROW))
    await run_to_end(trained, "index", indexing(WIDE))
    before = await compared(trained)

    def not_again(*arguments: object, **options: object) -> None:
        raise AssertionError("this was done already")

    monkeypatch.setattr(comparison, "match_features", not_again)
    asked = await run_to_end(trained, "compare", BOTH)
    turned = await run_to_end(trained, "compare", CompareParams(a=NARROW, b=WIDE))
    assert await compared(trained) == before
    assert asked.result is not None
    assert turned.result is not None
    assert asked.sae_slug == WIDE
    assert asked.result["page"] == f"/compare?a={WIDE}&b={NARROW}"
    assert asked.result["split_by_other"] == turned.result["other_split_by_this"]
    assert asked.result["without_partner"] == turned.result["without_partner_in_other"]
    assert asked.result["notes"] == []


@pytest.mark.parametrize("missing", ["index", "text", "store"])
async def test_directions_alone_are_compared_without_activations_on_the_same_text(
    trained: JobContext, missing: str
) -> None:
    await run_to_end(trained, "index", indexing(WIDE))
    if missing != "index":
        await run_to_end(trained, "index", indexing(NARROW, length=16 if missing == "text" else 32))
    if missing == "store":
        async with trained.sessions.begin() as session:
            await session.execute(text("DELETE FROM comparison"))
        shutil.rmtree(trained.artifacts.root / "indexes")
    done = await run_to_end(trained, "compare", BOTH)
    assert done.result is not None
    (note,) = done.result["notes"]
    assert "Only directions" in note
    assert "on the text of the other" in note
    found = await compared(trained)
    assert found is not None
    assert (found.tokens, found.sequence_set_id) == (0, None)
    async with trained.sessions() as session:
        own = (await get_counterparts(session, found, [5]))[5]
        matched = await list_counterparts(session, found, "matched")
    assert own.near is not None
    assert own.coactive is own.parent is own.covered is None
    assert own.near.joint is own.near.given_this is own.near.correlation is None
    assert matched.total == found.this["matched_by_direction"] > 0


async def test_a_comparison_is_stale_after_indexing_on_other_text(trained: JobContext) -> None:
    await run_to_end(trained, "index", indexing(NARROW))
    await run_to_end(trained, "index", indexing(WIDE))
    await run_to_end(trained, "index", indexing(WIDE, length=16))
    found = await compared(trained)
    assert found is not None
    assert not found.is_of(await sae(trained, WIDE), await sae(trained, NARROW))


async def test_a_damaged_store_of_another_sae_does_not_fail_an_index(trained: JobContext) -> None:
    await run_to_end(trained, "index", indexing(NARROW))
    (store,) = (trained.artifacts.root / "indexes").iterdir()
    next(store.glob("shard-*")).write_bytes(b"broken")
    done = await run_to_end(trained, "index", indexing(WIDE))
    assert done.state == "done"
    assert await compared(trained) is None


async def test_an_interrupted_comparison_starts_again_and_is_complete(
    trained: JobContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    await run_to_end(trained, "index", indexing(NARROW))
    await run_to_end(trained, "index", indexing(WIDE))
    undisturbed = await rows(trained)
    async with trained.sessions.begin() as session:
        await session.execute(text("DELETE FROM comparison"))
    assert await rows(trained) == []  # with their comparison

    report = StageProgress.__call__
    calls = 0
    stop_at = 0

    def stop(self: StageProgress, done: int, total: int, metrics: object = None, /) -> None:
        nonlocal calls
        report(self, done, total)
        calls += 1
        if calls == stop_at:
            raise RunInterrupted

    monkeypatch.setattr(StageProgress, "__call__", stop)
    run_id = await submit(trained, "compare", BOTH)
    while (await run_row(trained, run_id)).state != "done":
        stop_at, calls = stop_at + 1, 0
        try:
            await execute(trained, run_id)
        except RunInterrupted:
            assert await rows(trained) == []
            assert await submit(trained, "compare", BOTH) == run_id
    assert stop_at > 3
    assert await rows(trained) == undisturbed


async def rows(ctx: JobContext) -> list[object]:
    async with ctx.sessions() as session:
        found = await session.execute(
            text("SELECT to_jsonb(feature_match) - 'comparison_id' FROM feature_match ORDER BY side, feature")
        )
        return list(found.scalars())


async def test_saes_that_cannot_be_compared_are_refused(
    trained: JobContext, training: TrainParams, tmp_path: Path
) -> None:
    with pytest.raises(NotFound, match=r"There is no SAE “nobody”\. There are: "):
        await run_to_end(trained, "compare", CompareParams(a=WIDE, b="nobody"))
    with pytest.raises(Unprocessable, match="with itself"):
        await run_to_end(trained, "compare", CompareParams(a=WIDE, b=WIDE))
    elsewhere = {"model": str(tiny_model(tmp_path / "tiny-gpt", "gpt2")), "name": "another"}
    await run_to_end(trained, "train", training.model_copy(update=elsewhere))
    with pytest.raises(Unprocessable, match="only SAEs of one model"):
        await run_to_end(trained, "compare", CompareParams(a=WIDE, b="another"))
    onward = {"hook_out": "mlp_in.2", "hook": ("mlp_in.1",), "name": "narrower"}
    await run_to_end(trained, "train", training.model_copy(update=onward))
    assert (await run_to_end(trained, "compare", CompareParams(a=WIDE, b="narrower"))).state == "done"
