"""Effects of an SAE that was trained and indexed for real, tiny as it is."""

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import select

from app.errors import Unprocessable
from app.pipeline import measured_effects
from app.pipeline.demo import DemoParams, sample_effects
from app.pipeline.effects import EffectsParams, check, known_text
from app.pipeline.index import IndexParams
from app.pipeline.params import DEMO_CORPUS
from app.pipeline.prepared_inputs import prepare_registered
from app.pipeline.registered import open_sae
from app.pipeline.train import TrainParams
from app.queries import runs
from app.queries.effects import effect_summaries, get_effect
from app.queries.saes import SaeDetail, get_sae
from app.runs.context import RunContext, RunInterrupted, StageProgress
from app.runs.execution import execute
from app.runs.job_context import JobContext
from app.storage.survey import read_needs, survey
from app.tables import FeatureEffect
from tests.app.pipeline.running import run_row, run_to_end, submit
from tests.effects import flat
from tests.tiny import CORPUS_FILE

pytestmark = pytest.mark.slow
SAE = "tiny-llama-l1-batchtopk-64"
PARAMS = EffectsParams(sae=SAE, sample=10, contexts=4)


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
    assert run.result["seconds_per_feature"] > 0
    assert "notes" not in run.result
    assert run.result["used"] == sum(summary.used for summary in known.values())


async def test_the_text_is_what_was_held_out_from_training(trained: JobContext) -> None:
    await run_to_end(trained, "effects", PARAMS)
    provenance = (await rows(trained))[0]["detail"]["provenance"]
    assert provenance["sequences_sha256"] == (await sae(trained)).config["sequences"]
    assert provenance["held_out_from_training"] is True
    (_,) = (trained.artifacts.root / "activations").iterdir()


async def test_a_run_says_where_nothing_is_known_to_be_held_out(trained: JobContext) -> None:
    other = PARAMS.model_copy(update={"corpus": str(CORPUS_FILE), "length": 16})
    run = await run_to_end(trained, "effects", other)
    assert run.result is not None
    (note,) = run.result["notes"]
    assert "cut in another way" in note
    assert (await rows(trained))[0]["detail"]["provenance"]["held_out_from_training"] is False


async def test_an_sae_that_was_trained_elsewhere_is_measured_on_the_text_of_its_index(trained: JobContext) -> None:
    detail = replace(await sae(trained), config={})
    async with trained.sessions() as session:
        named = await known_text(session, detail, PARAMS)
        assert (named.corpus, named.length) == (str(CORPUS_FILE), 32)
        nothing = await known_text(session, replace(detail, id=detail.id + 1), PARAMS)
        assert nothing.corpus == DEMO_CORPUS


async def test_a_measurement_that_is_on_disk_took_no_time(trained: JobContext) -> None:
    await run_to_end(trained, "effects", PARAMS)
    again = await run_to_end(trained, "effects", PARAMS)
    assert again.result is not None
    assert again.result["seconds_per_feature"] is None


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
    assert dict(flat(await rows(trained))) == pytest.approx(dict(flat(resumed)), rel=1e-4, abs=1e-6)


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


async def test_a_demo_whose_effects_fail_says_so_and_is_done(trained: JobContext) -> None:
    run_id = await submit(trained, "demo", DemoParams())
    async with trained.sessions.begin() as session:
        await runs.start_run(session, run_id)
        run = await runs.get_run(session, run_id)
    assert run is not None
    opened, detail = await open_sae(trained, SAE)
    (trained.artifacts.root / "effects").write_text("nothing can be written below a file")
    async with RunContext(run, trained.sessions) as context:
        text = PARAMS.model_copy(update={"corpus": str(CORPUS_FILE), "length": 32})
        (inputs,) = await prepare_registered(context, trained, [(opened, detail)], text)
        found = await sample_effects(context, trained, opened, detail, inputs, notes=["Known."])
    assert found["notes"][0] == "Known."
    assert f"seesae effects {SAE}" in found["notes"][1]
    assert await rows(trained) == []
