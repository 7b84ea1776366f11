"""Content keys of inputs: what the values depend on changes them, and nothing else does."""

from pathlib import Path
from typing import Any

import pytest

from app.pipeline.params import CorpusParams
from app.pipeline.prepared_inputs import Cut, HookPair, TokenisedInputs, activations_key, sequences_key
from app.pipeline.train import TrainParams
from app.pipeline.training_plans import training_plans
from app.runs.job_context import JobContext
from sae_core.corpora import Corpus, Sequences, load_corpus, pack
from sae_core.errors import CorpusError
from sae_core.models import HookPoint, LanguageModel, load_model
from tests.app.pipeline.running import run_to_end
from tests.tiny import CORPUS_FILE

HOOKS = HookPair(HookPoint("resid_post", 1))


@pytest.fixture
def model(model_folder: Path) -> LanguageModel:
    return load_model(model_folder, device="cpu")


@pytest.fixture
def corpus() -> Corpus:
    return load_corpus(str(CORPUS_FILE))


@pytest.fixture
def sequences(corpus: Corpus, model: LanguageModel) -> Sequences:
    return pack(corpus, model, length=32, max_tokens=2_000, seed=0)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a corpus that goes wrong late."""
    (tmp_path / "bad.jsonl").write_text('{"text": "words"}\n' * 40 + '{"text": [1, 2]}\n')
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"text_column": "nope"}, "no column 'nope'"),
        ({"split": "nope"}, "leave them out"),
        ({"corpus": "FOLDER/bad.jsonl"}, r"Row 41 of bad\.jsonl holds token ids"),
    ],
)
async def test_a_wrong_corpus_is_refused_before_the_model_is_looked_for(
    ctx: JobContext, folder: Path, asked: dict[str, Any], message: str
) -> None:
    (folder / "empty").mkdir()  # no model: loading it would fail
    params: dict[str, Any] = {"model": str(folder / "empty"), "hook": "resid_post.1", "corpus": str(CORPUS_FILE)}
    asked = {name: value.replace("FOLDER", str(folder)) for name, value in asked.items()}
    with pytest.raises(CorpusError, match=message):
        await run_to_end(ctx, "train", TrainParams(**params | {"samples": 1000} | asked))


def test_sequences_depend_on_which_tokens_are_special(corpus: Corpus, model: LanguageModel) -> None:
    cut = Cut.of(CorpusParams(corpus=str(CORPUS_FILE)), None)
    before = sequences_key(corpus, model, cut)
    assert sequences_key(corpus, model, cut) == before
    model.special_token_ids |= {17}  # as another special_tokens_map.json beside the same tokenizer.json does
    assert sequences_key(corpus, model, cut) != before


def test_activations_depend_on_the_type_of_the_weights(sequences: Sequences, model: LanguageModel) -> None:
    before = activations_key(model, HOOKS, sequences)
    model.dtype = "bfloat16"  # as on a GPU
    assert activations_key(model, HOOKS, sequences) != before


def test_trained_weights_depend_on_the_order_of_the_batches(
    corpus: Corpus, sequences: Sequences, model: LanguageModel, tmp_path: Path
) -> None:
    rows: Any = None  # of the database, which no key depends on
    inputs = TokenisedInputs(model, rows, HOOKS, corpus, rows, sequences, tmp_path)
    base: dict[str, Any] = {
        "model": "tiny",
        "hook": "resid_post.1",
        "corpus": str(CORPUS_FILE),
        "architecture": ["topk"],
        "width": [64],
        "k": [4],
    }
    ways: list[dict[str, Any]] = [{}, {"stream": True, "buffer_mb": 1}, {"stream": True, "buffer_mb": 10}]
    plans = [training_plans(TrainParams(**base, **way), inputs)[0] for way in ways]
    assert len({plan.key(inputs) for plan in plans}) == 3
