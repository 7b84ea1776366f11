import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from app.errors import TooLarge, Unavailable, Unprocessable
from app.inference.engine import ProbeEngine, SparseActivations
from app.inference.residency import Residency
from app.settings import Settings
from sae_core.checkpoints import save_sae
from sae_core.kernels import Selection
from sae_core.saes import SAE, TopK
from tests.app.inference.dictionaries import HOOK, Dictionary, activations, make_dictionary, random_sae
from tests.tiny import EOS, sentencepiece_tokenizer, tiny_model

TEXT = "It was the best of times, it was the worst of times — and then:\n\tnothing."


def probe_engine(settings: Settings) -> ProbeEngine:
    return ProbeEngine(Residency(settings), settings.probe_max_tokens)


def dense(sparse: SparseActivations, d_sae: int) -> Tensor:
    activations = torch.zeros(len(sparse.token_ids), d_sae)
    activations[sparse.positions, sparse.features] = torch.from_numpy(sparse.activations).float()
    return activations


def test_activations_equal_those_of_model_and_sae(dictionary: Dictionary) -> None:
    answer = probe_engine(dictionary.settings).probe(dictionary.ref, TEXT)

    token_ids = dictionary.model.tokenize(TEXT)
    expected = dictionary.sae.encode(dictionary.model.activations(torch.tensor([token_ids]), HOOK)[0]).detach()
    expected[0] = 0  # BOS
    assert answer.token_ids == token_ids
    torch.testing.assert_close(dense(answer, dictionary.ref.d_sae), expected, rtol=1e-6, atol=1e-6)
    assert answer.max_per_feature()[0].tolist() == expected.sum(dim=0).nonzero().flatten().tolist()


def test_two_models_in_one_process_read_a_text_each_with_its_own_tokenizer(
    dictionary: Dictionary, tmp_path: Path
) -> None:
    other = make_dictionary(tmp_path, sentencepiece_tokenizer())
    assert other.model.weights_sha256 == dictionary.model.weights_sha256
    engine = probe_engine(dictionary.settings)
    shutil.copytree(tmp_path / "artifacts" / "saes" / other.ref.slug, dictionary.settings.artifacts / "saes" / "other")
    for row, made in (
        (dictionary.ref, dictionary),
        (replace(other.ref, artifact="saes/other"), other),
        (dictionary.ref, dictionary),
    ):
        answer = engine.probe(row, "Hello")
        assert answer.token_ids == made.model.tokenize("Hello")
        torch.testing.assert_close(dense(answer, row.d_sae), activations(made, "Hello"), rtol=1e-6, atol=1e-6)


def test_long_texts_are_encoded_in_blocks(dictionary: Dictionary) -> None:
    text = TEXT * 6
    token_ids = dictionary.model.tokenize(text)
    assert 128 < len(token_ids) < 256  # more than one block, less than the model's context
    settings = dictionary.settings.model_copy(update={"probe_max_tokens": 255})

    answer = probe_engine(settings).probe(dictionary.ref, text)

    expected = dictionary.sae.encode(dictionary.model.activations(torch.tensor([token_ids]), HOOK)[0]).detach()
    expected[0] = 0
    torch.testing.assert_close(dense(answer, dictionary.ref.d_sae), expected, rtol=1e-6, atol=1e-6)


def test_special_tokens_have_no_activations(dictionary: Dictionary) -> None:
    answer = probe_engine(dictionary.settings).probe(dictionary.ref, f"one{EOS}two")

    specials = [place for place, token_id in enumerate(answer.token_ids) if token_id in (1, 2)]
    assert len(specials) == 2
    assert [place for place, counted in enumerate(answer.counted) if not counted] == specials
    assert not set(answer.positions.tolist()) & set(specials)


def test_a_text_of_only_special_tokens_has_no_features(dictionary: Dictionary) -> None:
    answer = probe_engine(dictionary.settings).probe(dictionary.ref, EOS)
    assert answer.features.tolist() == answer.max_per_feature()[0].tolist() == []
    assert answer.counted == [False, False]


@pytest.mark.parametrize("text", ["\0", "<script>alert(1)</script>", "مرحبا 🧠", " "])
def test_any_characters_are_accepted(dictionary: Dictionary, text: str) -> None:
    answer = probe_engine(dictionary.settings).probe(dictionary.ref, text)
    assert dictionary.model.decode(answer.token_ids[1:]) == text


def test_a_text_over_the_limit_is_refused_with_the_limit(dictionary: Dictionary) -> None:
    text = "times " * 150
    tokens = len(dictionary.model.tokenize(text)) - 1
    with pytest.raises(TooLarge, match=f"has {tokens} tokens; at most 100"):
        probe_engine(dictionary.settings).probe(dictionary.ref, text)


def test_a_text_longer_than_the_models_context_is_refused(dictionary: Dictionary) -> None:
    settings = dictionary.settings.model_copy(update={"probe_max_tokens": 100_000})
    with pytest.raises(TooLarge, match="at most 255"):
        probe_engine(settings).probe(dictionary.ref, "times " * 150)


def test_a_different_model_at_the_same_source_is_refused(dictionary: Dictionary, tmp_path: Path) -> None:
    other = replace(dictionary.ref.model, source=str(tiny_model(tmp_path, seed=1)))
    with pytest.raises(Unavailable, match="files of tiny are not those that this SAE was trained on"):
        probe_engine(dictionary.settings).probe(replace(dictionary.ref, model=other), TEXT)


def test_missing_files_are_named_in_one_line(dictionary: Dictionary) -> None:
    engine = probe_engine(dictionary.settings)
    for broken in (
        replace(dictionary.ref, artifact="saes/gone"),
        replace(dictionary.ref, model=replace(dictionary.ref.model, source="/nowhere/at/all")),
    ):
        with pytest.raises(Unavailable, match=f"{dictionary.ref.slug} cannot be probed") as caught:
            probe_engine(dictionary.settings).probe(broken, TEXT)
        assert "\n" not in str(caught.value)
        assert "/" not in str(caught.value)  # no path of the server: those are in the log
    assert len(engine.probe(dictionary.ref, TEXT).features)  # the engine still works


class Greedy(TopK):
    """Allocates more memory than any machine has."""

    def encode_sparse(self, x: Tensor) -> tuple[Selection, Tensor]:
        torch.zeros(2**50)
        return super().encode_sparse(x)


def test_running_out_of_memory_is_reported_and_survived(
    dictionary: Dictionary, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = probe_engine(dictionary.settings)
    with monkeypatch.context() as patched:
        greedy = Greedy(random_sae(dictionary.ref.d_in).config)
        patched.setattr("app.inference.residency.load_sae", lambda _folder: greedy)
        with pytest.raises(Unavailable, match="not enough memory"):
            engine.probe(dictionary.ref, TEXT)
    assert len(engine.probe(dictionary.ref, TEXT).features)


def test_other_errors_are_not_reported_as_out_of_memory(
    dictionary: Dictionary, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: SAE, x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("a fault")

    monkeypatch.setattr(SAE, "encode_sparse", broken)
    with pytest.raises(RuntimeError, match="a fault"):
        probe_engine(dictionary.settings).probe(dictionary.ref, TEXT)


def test_a_hook_point_of_another_width_is_reported(dictionary: Dictionary) -> None:
    with pytest.raises(Unavailable, match="reads 32 dimensions, not 64"):
        probe_engine(dictionary.settings).probe(replace(dictionary.ref, hook="mlp_act.2"), TEXT)


def test_nothing_is_put_in_front_of_a_text_for_an_sae_without_bos(dictionary: Dictionary) -> None:
    artifact = f"{dictionary.ref.artifact}-no-bos"
    save_sae(dictionary.sae, dictionary.settings.artifacts / artifact, {"prepend_bos": False})
    engine, row = probe_engine(dictionary.settings), replace(dictionary.ref, artifact=artifact)

    answer = engine.probe(row, TEXT)

    token_ids = dictionary.model.tokenize(TEXT)[1:]
    expected = dictionary.sae.encode(dictionary.model.activations(torch.tensor([token_ids]), HOOK)[0]).detach()
    assert answer.token_ids == token_ids
    assert all(answer.counted)
    torch.testing.assert_close(dense(answer, row.d_sae), expected, rtol=1e-6, atol=1e-6)
    with pytest.raises(Unprocessable, match="no tokens"):
        engine.probe(row, "")
