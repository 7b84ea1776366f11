"""Effects of an SAE that was trained and indexed for real, tiny as it is."""

import json
from typing import Any

import pytest
from sqlalchemy import select

from app.errors import Unprocessable
from app.pipeline import measured_effects
from app.pipeline.effects import EffectsParams, check
from app.pipeline.index import IndexParams
from app.pipeline.train import TrainParams
from app.queries.effects import effect_summaries, get_effect
from app.queries.saes import SaeDetail, get_sae
from app.runs.context import RunInterrupted, StageProgress
from app.runs.execution import execute
from app.runs.job_context import JobContext
from app.storage.survey import read_needs, survey
from app.tables import FeatureEffect
from tests.app.pipeline.running import run_row, run_to_end, submit
from tests.tiny import CORPUS_FILE

pytestmark = pytest.mark.slow
SAE = "tiny-llama-l1-batchtopk-64"
PARAMS = EffectsParams(sae=SAE, corpus=str(CORPUS_FILE), length=32, sample=10, contexts=4)


@pytest.fixture
async def trained(ctx: JobContext, training: TrainParams, monkeypatch: pytest.MonkeyPatch) -> JobContext:
    monkeypatch.setattr(measured_effects, "SHARD", 4)
    await run_to_end(ctx, "train", training)
    await run_to_end(ctx, "index", IndexParams(sae=SAE, corpus=str(CORPUS_FILE), length=32))
    return ctx


async def sae(ctx: JobContext) -> SaeDetail:
    async with ctx.sessions() as session:
        found = await get_sae(session, SAE)
    assert found is not None
    return found


async def rows(ctx: JobContext) -> list[dict[str, Any]]:
    async with ctx.sessions() as session:
        found = await session.scalars(select(FeatureEffect).order_by(FeatureEffect.feature))
        return [{"feature": row.feature, "kl": row.kl, "ratio": row.ratio, "detail": row.detail} for row in found]


async def test_effects_of_the_most_frequent_features_are_published(trained: JobContext) -> None:
    run = await run_to_end(trained, "effects", PARAMS)
    assert run.result is not None
    assert run.result["features"] == 10
    detail = await sae(trained)
    async with trained.sessions() as session:
        known = await effect_summaries(session, detail.id)
        assert len(known) == 10
        feature = next(iter(known))
        effect = await get_effect(session, detail, feature)
    assert effect is not None
    assert effect.run == run.id
    assert effect.contexts <= 4
    assert effect.used == (effect.interval is not None and effect.interval[0] > 1)
    assert effect.promoted
    assert effect.promoted[0].bytes
    assert run.result["used"] == sum(summary.used for summary in known.values())


async def test_an_interrupted_run_ends_with_the_same_effects(
    trained: JobContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = await submit(trained, "effects", PARAMS)
    whole = StageProgress.__call__

    def stop_in_second_shard(self: StageProgress, done: int, total: int, *rest: Any) -> None:
        if self._name == "effects" and total == 10 and done >= 5:
            raise RunInterrupted
        whole(self, done, total, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(StageProgress, "__call__", stop_in_second_shard)
        with pytest.raises(RunInterrupted):
            await execute(trained, run_id)
    assert await rows(trained) == []
    (folder,) = (trained.artifacts.root / "effects").iterdir()
    assert len(list(folder.glob("shard-*.json"))) == 1
    await execute(trained, run_id)
    assert (await run_row(trained, run_id)).state == "done"
    resumed = await rows(trained)

    for path in folder.glob("shard-*.json"):
        path.unlink()
    await run_to_end(trained, "effects", PARAMS)
    assert json.dumps(await rows(trained)) == json.dumps(resumed)


async def test_a_list_of_features_is_measured_beside_what_is_known(trained: JobContext) -> None:
    await run_to_end(trained, "effects", PARAMS.model_copy(update={"features": (3,)}))
    await run_to_end(trained, "effects", PARAMS.model_copy(update={"features": (3, 60)}))
    assert [row["feature"] for row in await rows(trained)] == [3, 60]


async def test_a_feature_that_does_not_exist_is_refused_before_the_work(trained: JobContext) -> None:
    async with trained.sessions() as session:
        with pytest.raises(Unprocessable, match="no feature 64"):
            await check(session, trained.settings, PARAMS.model_copy(update={"features": (64,)}))
        estimate = await check(session, trained.settings, PARAMS)
    assert estimate.seconds


async def test_the_files_are_a_cache_that_may_be_removed(trained: JobContext) -> None:
    await run_to_end(trained, "effects", PARAMS)
    items = [
        item for item in survey(trained.artifacts, await read_needs(trained.sessions)) if item.category == "effects"
    ]
    assert [item.needed for item in items] == [False]
