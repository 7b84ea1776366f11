"""What a run is expected to take, by one second of the model and of the encoder's product."""

from pathlib import Path

import pytest

from app.pipeline.forecast import Speed, Work, expected_seconds, measure_speed
from app.pipeline.index import IndexParams
from app.pipeline.train import TrainParams
from app.runs.job_context import JobContext
from sae_core.corpora import Sequences, load_corpus, pack
from sae_core.models import HookPoint, LanguageModel, load_model
from sae_core.training import TrainingConfig
from tests.app.pipeline.running import run_to_end
from tests.tiny import CORPUS_FILE, tiny_model

HOOK = HookPoint("resid_post", 1)
SPEED = Speed(tokens=1000.0, products=1e6)


@pytest.fixture
def model(tmp_path: Path) -> LanguageModel:
    return load_model(tiny_model(tmp_path / "tiny"), device="cpu")


@pytest.fixture
def sequences(model: LanguageModel) -> Sequences:
    return pack(load_corpus(CORPUS_FILE), model, length=32, max_tokens=2000)


def test_a_machine_does_something_per_second(
    model: LanguageModel, sequences: Sequences, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.pipeline.forecast._SECONDS", 1.0)  # as it is outside of tests
    speed = measure_speed(model, [HOOK], sequences)
    assert speed.tokens > 1
    assert speed.products > 1


def test_stages_grow_with_what_they_do(model: LanguageModel, sequences: Sequences) -> None:
    def seconds(**work: object) -> dict[str, float]:
        return expected_seconds(SPEED, model, HOOK, sequences, Work(**work))  # type: ignore[arg-type]

    small = TrainingConfig(d_sae=64, k=4, samples=10_000)
    assert seconds()["activations"] == sequences.n_counted / 1000
    assert "train" not in seconds()
    assert seconds(trained=[small, small])["train"] == 2 * seconds(trained=[small])["train"]
    assert seconds(trained=[small])["train"] == pytest.approx(1.75 * 10_000 * 64 / 1e6)
    narrow, wide = seconds(indexed=(64, 4.0)), seconds(indexed=(640, 4.0))
    assert all(wide[name] > narrow[name] for name in ("encode", "statistics", "publish", "map"))
    assert seconds(predictions=20)["evaluate"] == 2 * seconds(predictions=10)["evaluate"] > 0
    assert seconds(effects=2)["effects"] == 2 * seconds(effects=1)["effects"] > 0


def test_a_pass_of_the_whole_model_costs_more_than_one_up_to_a_hook(model: LanguageModel, sequences: Sequences) -> None:
    first, last = (
        expected_seconds(SPEED, model, HookPoint("resid_post", layer), sequences, Work(predictions=10, effects=1))
        for layer in (0, model.n_layers - 1)
    )
    assert first["evaluate"] > last["evaluate"]
    assert first["effects"] > last["effects"] > 0


async def test_every_stage_of_a_training_and_of_an_index_is_foreseen_once_the_model_runs(
    ctx: JobContext, training: TrainParams
) -> None:
    trained = await run_to_end(ctx, "train", training)
    assert trained.sae_slug is not None
    indexed = await run_to_end(ctx, "index", IndexParams(sae=trained.sae_slug, corpus=str(CORPUS_FILE), length=32))
    for run in (trained, indexed):
        names = [stage.name for stage in run.stages]
        foreseen = [stage.name for stage in run.stages if stage.expected is not None]
        assert foreseen == names[names.index("activations") :]
