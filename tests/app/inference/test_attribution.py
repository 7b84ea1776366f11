"""The steps of an attribution in the inference process: memory, turns, transcoders, and what is left behind."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from app.errors import ClientGone, TooLarge
from app.inference import attribution
from app.inference.engine import ProbeEngine
from app.inference.residency import Residency
from app.services.inference_messages import AttributeRequest
from sae_core.attribution import ablation
from sae_core.checkpoints import save_sae
from sae_core.models import HookPoint
from sae_core.saes import TopK
from sae_core.saes.topk import TopKConfig
from tests.app.inference.dictionaries import Dictionary

TEXT = "It was the best of times, it was the worst of times."


@pytest.fixture
def residency(dictionary: Dictionary) -> Residency:
    return Residency(dictionary.settings)


@pytest.fixture
def engine(residency: Residency, dictionary: Dictionary) -> ProbeEngine:
    return ProbeEngine(residency, dictionary.settings.probe_max_tokens)


@pytest.fixture
def request_(dictionary: Dictionary) -> AttributeRequest:
    return AttributeRequest(
        saes=[dictionary.ref],
        text=TEXT,
        position=None,
        target=None,
        rival=None,
        method="gradient",
        steps=10,
        top=20,
        verify=7,
    )


def stay() -> None:
    """A client that is still there."""


def test_what_does_not_fit_into_memory_is_refused_before_the_pass(
    engine: ProbeEngine, residency: Residency, request_: AttributeRequest
) -> None:
    attribution.estimate(engine, request_, stay)
    residency.modules.limit = residency.modules.nbytes + 1_000_000
    with pytest.raises(TooLarge, match="Try a shorter text"):
        attribution.estimate(engine, request_, stay)
    engine.probe(request_.saes[0], TEXT)  # which needs less


def test_ablations_are_split_into_turns_and_join_to_one_answer(
    engine: ProbeEngine, request_: AttributeRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    estimated = attribution.estimate(engine, request_, stay)
    [whole] = attribution.batches(estimated, 7)
    at_once = attribution.verified(engine, request_, estimated, whole)
    monkeypatch.setattr(ablation, "ABLATION_TOKENS", 3 * len(estimated.read))
    parts = attribution.batches(estimated, 7)
    assert [part.stop - part.start for part in parts] == [3, 3, 1]
    joined = np.concatenate([attribution.verified(engine, request_, estimated, part) for part in parts])
    np.testing.assert_allclose(joined, at_once, atol=1e-5)
    answer = attribution.answer(estimated, joined)
    assert sum(node.ablation is not None for node in answer.nodes) == 7


def test_work_ends_when_the_client_has_gone(engine: ProbeEngine, request_: AttributeRequest) -> None:
    def gone() -> None:
        raise ClientGone

    with pytest.raises(ClientGone):
        attribution.estimate(engine, request_.model_copy(update={"method": "integrated"}), gone)


def test_a_probe_is_the_same_before_and_after(
    engine: ProbeEngine, request_: AttributeRequest, dictionary: Dictionary
) -> None:
    before = engine.probe(dictionary.ref, TEXT)
    estimated = attribution.estimate(engine, request_.model_copy(update={"method": "integrated"}), stay)
    attribution.verified(engine, request_, estimated, slice(0, 7))
    after = engine.probe(dictionary.ref, TEXT)
    np.testing.assert_array_equal(before.activations, after.activations)
    np.testing.assert_array_equal(before.features, after.features)


def test_a_transcoder_is_attributed_where_it_writes(
    engine: ProbeEngine, request_: AttributeRequest, dictionary: Dictionary
) -> None:
    d = dictionary.model.d_model
    generator = torch.Generator().manual_seed(3)
    sae = TopK(TopKConfig(d_in=d, d_out=d, d_sae=64, k=8))
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / d**0.5)
    reads, writes = HookPoint("mlp_in", 2), HookPoint("mlp_out", 2)
    info = {"hook_name": reads.transformer_lens, "hook_name_out": writes.transformer_lens}
    save_sae(sae, dictionary.settings.artifacts / "saes" / "transcoder", info)
    ref = replace(
        dictionary.ref,
        slug="transcoder",
        hook=str(reads),
        hook_out=str(writes),
        artifact="saes/transcoder",
        weights_sha256="3" * 64,
    )
    asked = request_.model_copy(update={"saes": [ref]})
    estimated = attribution.estimate(engine, asked, stay)
    changes = attribution.verified(engine, asked, estimated, slice(0, 1))
    node = estimated.nodes[:1]
    row = node.activations[0] * sae.W_dec[node.features[0]]

    def ablated(y: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        y = y.clone()
        y[0, node.positions[0]] -= row
        return y

    with torch.no_grad():
        logits = dictionary.model.logits(estimated.read[None], writes, ablated)[0, -1]
    assert changes[0] == pytest.approx(logits[estimated.target.token].item() - estimated.found.value, abs=1e-4)
