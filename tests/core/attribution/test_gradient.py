"""Attributions against the exact answer: a linear model, finite differences, and the whole effect of a path."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from sae_core.attribution import METHODS, HookedSAE, Target, ablate, attribute
from sae_core.attribution.nodes import Nodes
from sae_core.errors import ModelError, SAEError
from sae_core.models import HookPoint, LanguageModel
from tests.core.attribution.conftest import EARLY, LATE, random_sae

TEXT = "The lighthouse keeper wrote a letter to"
TARGET = Target(token=40, rival=41)


def tokens(model: LanguageModel) -> Tensor:
    return torch.tensor(model.tokenize(TEXT))


def after_bos(token_ids: Tensor) -> np.ndarray:
    return np.arange(len(token_ids)) > 0


@pytest.mark.parametrize("method", METHODS)
def test_on_a_linear_model_every_contribution_is_exact(linear: LanguageModel, method: str) -> None:
    token_ids = torch.tensor([3, 1, 4, 1, 5])
    saes = [HookedSAE(random_sae(16, seed=seed), hook, hook) for seed, hook in enumerate((EARLY, LATE), start=1)]
    found = attribute(linear, saes, token_ids, TARGET_OF_TOY, counted=after_bos(token_ids), method=method)
    assert len(found.nodes) == 2 * 4 * 6
    exact = -ablate(linear, saes, token_ids, TARGET_OF_TOY, found.nodes)
    np.testing.assert_allclose(found.nodes.attributions, exact, rtol=1e-3, atol=1e-4)


TARGET_OF_TOY = Target(token=7, rival=2)


def test_features_error_and_bias_sum_to_the_linear_models_answer(linear: LanguageModel) -> None:
    token_ids = torch.tensor([3, 1, 4, 1, 5])
    sae = random_sae(16)
    counted = np.ones(5, dtype=bool)
    found = attribute(linear, [HookedSAE(sae, LATE, LATE)], token_ids, Target(7), counted=counted)
    logits = linear.last_logits(token_ids[None], {LATE: lambda x: x * 0 + sae.b_dec})
    of_bias = logits[0, 7].item()
    assert found.features.sum() + found.errors.sum() + of_bias == pytest.approx(found.value, abs=1e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox", "gemma2", "gemma3", "qwen3"])
def test_gradients_agree_with_small_changes_of_the_feature(
    load_family: Callable[[str], LanguageModel], family: str
) -> None:
    model = load_family(family)
    saes = [HookedSAE(random_sae(model.d_model, seed=hook.layer), hook, hook) for hook in (EARLY, LATE)]
    token_ids = tokens(model)
    found = attribute(model, saes, token_ids, TARGET, counted=after_bos(token_ids))
    step = 1e-3
    small = found.nodes[:12]
    slopes = ablate(model, saes, token_ids, TARGET, scaled(small, step)) / -step
    np.testing.assert_allclose(small.attributions, slopes, rtol=0.05, atol=3e-3)


def scaled(nodes: Nodes, factor: float) -> Nodes:
    return Nodes(
        nodes.saes, nodes.features, nodes.positions, nodes.activations * factor, nodes.scales, nodes.attributions
    )


def test_integrated_gradients_sum_to_the_effect_of_all_features(model: LanguageModel, saes: list[HookedSAE]) -> None:
    token_ids = tokens(model)
    counted = after_bos(token_ids)
    found = attribute(model, saes[1:], token_ids, TARGET, counted=counted, method="integrated", steps=50)
    sae, hook = saes[1].sae, saes[1].reads

    def without_features(x: Tensor, _: Tensor) -> Tensor:
        x = x.clone()
        x[:, counted] -= sae.encode(x[:, counted]) @ sae.W_dec
        return x

    ablated = TARGET.of(model.logits(token_ids[None], hook, without_features)[:, -1]).item()
    assert found.features.sum() == pytest.approx(found.value - ablated, rel=0.01)


def test_several_saes_get_what_each_alone_gets(model: LanguageModel, saes: list[HookedSAE]) -> None:
    token_ids = tokens(model)
    counted = after_bos(token_ids)
    both = attribute(model, saes, token_ids, TARGET, counted=counted)
    for number, sae in enumerate(saes):
        alone = attribute(model, [sae], token_ids, TARGET, counted=counted)
        of_sae = both.nodes[np.flatnonzero(both.nodes.saes == number)]
        np.testing.assert_array_equal(of_sae.features, alone.nodes.features)
        np.testing.assert_allclose(of_sae.attributions, alone.nodes.attributions, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(both.errors[number], alone.errors[0], rtol=1e-4, atol=1e-6)


def test_nothing_is_attributed_to_bos(model: LanguageModel, saes: list[HookedSAE]) -> None:
    token_ids = tokens(model)
    found = attribute(model, saes, token_ids, TARGET, counted=after_bos(token_ids))
    assert found.nodes.positions.min() > 0
    assert not found.errors[:, 0].any()
    assert not found.features[:, 0].any()


def test_a_bos_alone_has_no_nodes(model: LanguageModel, saes: list[HookedSAE]) -> None:
    found = attribute(model, saes, torch.tensor([1]), TARGET, counted=np.array([False]))
    assert len(found.nodes) == 0
    assert found.explained is None


@pytest.mark.parametrize("normalisation", ["layer_norm", "constant_norm_rescale"])
def test_an_sae_that_normalises_tokens_writes_in_the_models_units(model: LanguageModel, normalisation: str) -> None:
    sae = random_sae(model.d_model, normalize_activations=normalisation)
    token_ids = tokens(model)
    counted = after_bos(token_ids)
    found = attribute(model, [HookedSAE(sae, LATE, LATE)], token_ids, TARGET, counted=counted)
    node = found.nodes[:1]
    x = model.activations(token_ids[None], LATE)[0, node.positions[0]]
    f = sae.encode(x[None])
    without = f.clone()
    without[0, node.features[0]] = 0
    difference = sae.decode(without, x[None]) - sae.decode(f, x[None])

    def ablated(activations: Tensor, _: Tensor) -> Tensor:
        activations = activations.clone()
        activations[0, node.positions[0]] += difference[0]
        return activations

    expected = TARGET.of(model.logits(token_ids[None], LATE, ablated)[:, -1]).item() - found.value
    exact = ablate(model, [HookedSAE(sae, LATE, LATE)], token_ids, TARGET, node)
    assert exact[0] == pytest.approx(expected, abs=1e-4)
    slope = ablate(model, [HookedSAE(sae, LATE, LATE)], token_ids, TARGET, scaled(node, 1e-3)) / -1e-3
    assert node.attributions[0] == pytest.approx(slope[0], rel=0.05, abs=3e-3)


def test_a_transcoder_acts_where_it_writes(model: LanguageModel) -> None:
    reads, writes = HookPoint("mlp_in", 2), HookPoint("mlp_out", 2)
    sae = random_sae(model.d_model, d_out=model.d_model)
    token_ids = tokens(model)
    counted = after_bos(token_ids)
    found = attribute(model, [HookedSAE(sae, reads, writes)], token_ids, TARGET, counted=counted)
    node = found.nodes[:1]
    f = sae.encode(model.activations(token_ids[None], reads)[0])
    row = f[node.positions[0], node.features[0]] * sae.W_dec[node.features[0]]

    def ablated(activations: Tensor, _: Tensor) -> Tensor:
        activations = activations.clone()
        activations[0, node.positions[0]] -= row
        return activations

    expected = TARGET.of(model.logits(token_ids[None], writes, ablated)[:, -1]).item() - found.value
    exact = ablate(model, [HookedSAE(sae, reads, writes)], token_ids, TARGET, node)
    assert exact[0] == pytest.approx(expected, abs=1e-4)


def test_the_value_is_the_models_own_logit(model: LanguageModel, saes: list[HookedSAE]) -> None:
    token_ids = tokens(model)
    logits = model.logits(token_ids[None])[0, -1]
    found = attribute(model, saes, token_ids, Target(40), counted=after_bos(token_ids))
    assert found.value == pytest.approx(logits[40].item(), abs=1e-5)
    torch.testing.assert_close(found.log_probabilities, logits.log_softmax(dim=0), atol=1e-5, rtol=1e-5)


def test_an_sae_of_another_width_is_refused(model: LanguageModel) -> None:
    token_ids = tokens(model)
    wrong = HookedSAE(random_sae(16), LATE, LATE)
    with pytest.raises(SAEError, match="reads 16 dimensions"):
        attribute(model, [wrong], token_ids, TARGET, counted=after_bos(token_ids))


def test_a_layer_that_is_not_there_is_refused(model: LanguageModel) -> None:
    token_ids = tokens(model)
    absent = HookPoint("resid_post", 9)
    with pytest.raises(ModelError, match="no layer 9"):
        attribute(
            model,
            [HookedSAE(random_sae(32), absent, absent)],
            token_ids,
            TARGET,
            counted=after_bos(token_ids),
        )


def test_work_can_be_stopped_between_passes(model: LanguageModel, saes: list[HookedSAE]) -> None:
    token_ids = tokens(model)

    def stop() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        attribute(model, saes, token_ids, TARGET, counted=after_bos(token_ids), method="integrated", between=stop)
