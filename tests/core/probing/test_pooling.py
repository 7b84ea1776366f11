"""Texts are pooled as each by itself is, and random dictionaries have the shape and sparsity they are asked for."""

import numpy as np
import pytest
import torch

from sae_core.models import HookPoint, LanguageModel
from sae_core.probing import MAX_TOKENS, pool_texts, random_dictionary
from sae_core.readings import read
from tests.core.interventions.conftest import random_sae
from tests.tiny import BOS, documents

HOOK = HookPoint("resid_post", 1)


def test_each_text_has_the_means_of_its_own_counted_tokens(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read, "BATCH_TOKENS", 300)  # several batches, which are longest first
    sae = random_sae("topk").for_inference()
    control = random_dictionary(24, torch.zeros(sae.d_in), active=3.4, seed=0)
    texts = [document["text"][: 90 * number] for number, document in enumerate(documents()[:8])]
    texts.append(f"a special {BOS} token does not count")
    seen: list[tuple[int, int]] = []
    pooled = pool_texts(
        model, [sae, control], texts, hook=HOOK, progress=lambda done, total, _=None, /: seen.append((done, total))
    )
    assert [latents.shape for latents in pooled.latents] == [(9, sae.d_sae), (9, 24)]
    for number, text in enumerate(texts):
        ids = model.tokenize(text)[: MAX_TOKENS + 1]
        x = model.activations(torch.tensor([ids]), HOOK)[0]
        x = x[[place for place, token in enumerate(ids) if token not in model.special_token_ids]]
        for latents, dictionary in zip(pooled.latents, (sae, control), strict=True):
            expected = dictionary.encode(x).mean(dim=0).detach().numpy() if len(x) else np.zeros(dictionary.d_sae)
            np.testing.assert_allclose(latents[[number]].toarray()[0], expected, atol=1e-4)
        expected = x.mean(dim=0).numpy() if len(x) else np.zeros(sae.d_in)
        np.testing.assert_allclose(pooled.activations[number], expected, atol=1e-4)
    assert not pooled.activations[0].any() and pooled.latents[0][[0]].nnz == 0
    assert max(len(model.tokenize(text)) for text in texts) > MAX_TOKENS + 1, "one text is cut"
    assert seen[0][0] == 0 and seen[-1][0] == seen[-1][1] and len(seen) > 3


def test_a_random_dictionary_has_unit_directions_and_k_active_features_around_the_centre() -> None:
    centre = torch.full((16,), 50.0)
    dictionary = random_dictionary(64, centre, active=5.4, seed=1)
    torch.testing.assert_close(torch.linalg.vector_norm(dictionary.W_enc, dim=0), torch.ones(64))
    x = centre + torch.randn(200, 16, generator=torch.Generator().manual_seed(0))
    f = dictionary.encode(x)
    assert ((f > 0).sum(dim=1) == 5).all()
    pre = (x - centre) @ dictionary.W_enc
    expected = torch.zeros_like(pre).scatter(1, pre.topk(5).indices, pre.topk(5).values)
    torch.testing.assert_close(f, expected)
    assert (f > 0).any(dim=0).sum() > 50, "it is not the same few features on every token"


def test_directions_are_of_the_seed_alone() -> None:
    one, same, other = (random_dictionary(8, torch.zeros(4), active=2, seed=seed).W_enc for seed in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)


@pytest.mark.parametrize(("active", "k"), [(0.2, 1), (2.5, 2), (3.5, 4), (100.0, 8)])
def test_k_is_the_l0_rounded_and_fits(active: float, k: int) -> None:
    assert random_dictionary(8, torch.zeros(4), active=active, seed=0).k == k
