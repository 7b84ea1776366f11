"""Exact ablation against hooks written by hand, and the rank correlation with it."""

import numpy as np
import pytest
import torch
from torch import Tensor

from sae_core.attribution import HookedSAE, Target, ablate, attribute, rank_correlation
from sae_core.attribution import ablation as module
from sae_core.interventions import Intervention, Site, intervene
from sae_core.models import LanguageModel
from tests.core.attribution.conftest import LATE, random_sae

TARGET = Target(token=40)


@pytest.fixture
def token_ids(model: LanguageModel) -> Tensor:
    return torch.tensor(model.tokenize("The lighthouse keeper wrote a letter to"))


@pytest.mark.parametrize("tokens_at_once", [1, 40, 4096])
def test_each_node_is_taken_out_alone_whatever_the_batch(
    model: LanguageModel,
    saes: list[HookedSAE],
    token_ids: Tensor,
    tokens_at_once: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "ABLATION_TOKENS", tokens_at_once)
    counted = np.arange(len(token_ids)) > 0
    nodes = attribute(model, saes, token_ids, TARGET, counted=counted).nodes[:10]
    assert {0, 1} == set(nodes.saes), "nodes of both SAEs are tested"
    changes = ablate(model, saes, token_ids, TARGET, nodes)
    clean = model.logits(token_ids[None])[0, -1, 40].item()
    for node in range(len(nodes)):
        hooked = saes[nodes.saes[node]]

        def by_hand(x: Tensor, _: Tensor, node: int = node, hooked: HookedSAE = hooked) -> Tensor:
            x = x.clone()
            position, feature = nodes.positions[node], nodes.features[node]
            f = hooked.sae.encode(x[0, position])
            x[0, position] -= f[feature] * hooked.sae.W_dec[feature]
            return x

        ablated = model.logits(token_ids[None], hooked.writes, by_hand)[0, -1, 40].item()
        assert changes[node] == pytest.approx(ablated - clean, abs=2e-5)


def test_no_nodes_change_nothing(model: LanguageModel, saes: list[HookedSAE], token_ids: Tensor) -> None:
    nodes = attribute(model, saes, token_ids, TARGET, counted=np.arange(len(token_ids)) > 0).nodes[:0]
    assert len(ablate(model, saes, token_ids, TARGET, nodes)) == 0


def test_no_hook_is_left_behind(model: LanguageModel, saes: list[HookedSAE], token_ids: Tensor) -> None:
    before = model.logits(token_ids[None])
    nodes = attribute(model, saes, token_ids, TARGET, counted=np.arange(len(token_ids)) > 0).nodes[:4]
    ablate(model, saes, token_ids, TARGET, nodes)
    assert torch.equal(model.logits(token_ids[None]), before)


def test_rank_correlation_has_the_sign_of_agreement() -> None:
    attributions = np.array([3.0, 2.0, -1.0, 0.5])
    assert rank_correlation(attributions, -attributions) == pytest.approx(1)
    assert rank_correlation(attributions, attributions) == pytest.approx(-1)


@pytest.mark.parametrize("changes", [[0.1, 0.2], [0.0, 0.0, 0.0]])
def test_too_few_or_equal_values_have_no_rank_correlation(changes: list[float]) -> None:
    assert rank_correlation(np.arange(len(changes), dtype=float), np.array(changes)) is None


@pytest.mark.parametrize("normalisation", ["none", "layer_norm", "constant_norm_rescale"])
def test_it_is_the_intervention_that_ablates_the_feature_at_its_position(
    model: LanguageModel, token_ids: Tensor, normalisation: str
) -> None:
    sae = random_sae(model.d_model, normalize_activations=normalisation)
    hooked = [HookedSAE(sae, LATE, LATE)]
    nodes = attribute(model, hooked, token_ids, TARGET, counted=np.arange(len(token_ids)) > 0).nodes[:4]
    changes = ablate(model, hooked, token_ids, TARGET, nodes)
    clean = model.logits(token_ids[None])[0, -1, 40].item()
    for node in range(len(nodes)):
        at = frozenset({int(nodes.positions[node])})
        ablation = Intervention("ablate", feature=int(nodes.features[node]), positions=at)
        with intervene(model, [Site(LATE, [ablation], sae)]):
            ablated = model.logits(token_ids[None])[0, -1, 40].item()
        assert changes[node] == pytest.approx(ablated - clean, abs=2e-5)
