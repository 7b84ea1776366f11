"""Edges between features: exact on a linear model, causal, and pruned by influence."""

import numpy as np
import pytest
import torch

from sae_core.attribution import HookedSAE, Target, attribute, edges
from sae_core.models import LanguageModel
from tests.core.attribution.conftest import EARLY, LATE, Linear, random_sae

TOKENS = torch.tensor([3, 1, 4, 1, 5])
TARGET = Target(token=7)


@pytest.fixture
def toy_saes() -> list[HookedSAE]:
    return [HookedSAE(random_sae(16, seed=seed), hook, hook) for seed, hook in enumerate((EARLY, LATE), start=1)]


def test_an_edge_is_what_a_linear_model_passes_on(linear: LanguageModel, toy_saes: list[HookedSAE]) -> None:
    nodes = attribute(linear, toy_saes, TOKENS, TARGET, counted=np.ones(5, dtype=bool)).nodes
    found = edges(linear, toy_saes, TOKENS, nodes, keep=1.0, most=10_000)
    late = Linear(16, 20).weights["late"]
    early_sae, late_sae = (hooked.sae for hooked in toy_saes)
    for source, target, weight in zip(found.sources[:40], found.targets[:40], found.weights[:40], strict=True):
        # The toy's second point sums positions up to its own, so every source not after the target reaches it.
        assert nodes.positions[source] <= nodes.positions[target]
        written = nodes.activations[source] * early_sae.W_dec[nodes.features[source]]
        pre = (written @ late @ late_sae.W_enc[:, nodes.features[target]]).item()
        of_target = nodes.attributions[target] / nodes.activations[target]
        assert weight == pytest.approx(pre * of_target, rel=1e-3, abs=1e-5)


def test_edges_go_up_and_not_back_in_the_text(model: LanguageModel, saes: list[HookedSAE]) -> None:
    token_ids = torch.tensor(model.tokenize("The lighthouse keeper wrote a letter to"))
    counted = np.arange(len(token_ids)) > 0
    nodes = attribute(model, saes, token_ids, TARGET, counted=counted).nodes[:30]
    found = edges(model, saes, token_ids, nodes)
    assert len(found.sources) > 0
    assert set(nodes.saes[found.sources]) == {0}
    assert set(nodes.saes[found.targets]) == {1}
    assert (nodes.positions[found.sources] <= nodes.positions[found.targets]).all()


def test_the_strongest_edges_are_kept_up_to_a_share(model: LanguageModel, saes: list[HookedSAE]) -> None:
    token_ids = torch.tensor(model.tokenize("The lighthouse keeper wrote a letter to"))
    counted = np.arange(len(token_ids)) > 0
    nodes = attribute(model, saes, token_ids, TARGET, counted=counted).nodes[:30]
    every = edges(model, saes, token_ids, nodes, keep=1.0, most=10_000)
    some = edges(model, saes, token_ids, nodes, keep=0.5)
    assert every.kept == pytest.approx(1)
    assert 0.5 <= some.kept < 0.7
    assert len(some.weights) < len(every.weights)
    assert np.abs(some.weights).min() >= np.abs(every.weights[len(some.weights) :]).max()


def test_one_layer_has_no_edges(model: LanguageModel, saes: list[HookedSAE]) -> None:
    token_ids = torch.tensor(model.tokenize("The lighthouse"))
    nodes = attribute(model, saes[:1], token_ids, TARGET, counted=np.arange(len(token_ids)) > 0).nodes
    found = edges(model, saes[:1], token_ids, nodes)
    assert len(found.weights) == 0
    assert found.kept == 0
