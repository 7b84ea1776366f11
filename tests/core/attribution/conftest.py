"""A tiny model with random SAEs at two layers, and a toy whose layers are linear."""

from collections.abc import Mapping
from typing import cast

import pytest
import torch
from torch import Tensor

from sae_core.attribution import HookedSAE
from sae_core.models import HookPoint, LanguageModel
from sae_core.models.language_model import Write
from sae_core.saes import ARCHITECTURES, SAE

EARLY, LATE = HookPoint("resid_post", 1), HookPoint("resid_post", 2)


def random_sae(
    d_in: int, *, d_out: int | None = None, k: int = 6, seed: int = 0, normalize_activations: str = "none"
) -> SAE:
    generator = torch.Generator().manual_seed(seed)
    architecture = ARCHITECTURES["topk"]
    sae = architecture(
        architecture.Config(d_in=d_in, d_out=d_out, d_sae=48, k=k, normalize_activations=normalize_activations)  # type: ignore[call-arg]
    )
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / d_in**0.5)
    return sae.for_inference()


@pytest.fixture
def saes(model: LanguageModel) -> list[HookedSAE]:
    """One on each of two layers of the tiny Llama."""
    return [
        HookedSAE(random_sae(model.d_model, seed=seed), hook, hook) for seed, hook in enumerate((EARLY, LATE), start=1)
    ]


class Linear:
    """A model whose logits are linear in its activations at two points, with positions that mix."""

    name = "linear"

    def __init__(self, d: int, vocabulary: int) -> None:
        generator = torch.Generator().manual_seed(0)
        shapes = {"embed": (vocabulary, d), "early": (d, d), "late": (d, d), "unembed": (d, vocabulary)}
        self.weights = {name: torch.randn(shape, generator=generator) / d**0.5 for name, shape in shapes.items()}

    def last_logits(self, token_ids: Tensor, writes: Mapping[HookPoint, Write]) -> Tensor:
        x = self.weights["embed"][token_ids]
        for hook, weight in ((EARLY, "early"), (LATE, "late")):
            x = x.cumsum(dim=1) @ self.weights[weight]
            x = writes[hook](x) if hook in writes else x
        return x.sum(dim=1) @ self.weights["unembed"]


@pytest.fixture
def linear() -> LanguageModel:
    """A model of width 16 with 20 tokens; only `last_logits` is there."""
    return cast(LanguageModel, Linear(16, 20))
