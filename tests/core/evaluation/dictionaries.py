"""Dictionaries of which algebra says what they score, and what they are measured on."""

import dataclasses

import torch
from torch import Tensor

from sae_core.corpora import Sequences
from sae_core.evaluation import Evaluation
from sae_core.models import HookPoint
from sae_core.saes import Standard, TopK
from sae_core.saes.standard import StandardConfig
from sae_core.saes.topk import TopKConfig

HOOK = HookPoint("resid_post", 1)
MLP_IN, MLP_OUT = HookPoint("mlp_in", 1), HookPoint("mlp_out", 1)
D_IN = 32


def held_out_tokens(sequences: Sequences) -> tuple[Tensor, Tensor]:
    """Token ids and counted positions of the held-out sequences."""
    held_out = sequences.is_validation()
    return torch.from_numpy(sequences.token_ids[held_out]).long(), torch.from_numpy(sequences.counted[held_out])


def identity() -> Standard:
    """A dictionary with a feature for each direction of each dimension: x̂ = x."""
    sae = Standard(StandardConfig(d_in=D_IN, d_sae=2 * D_IN))
    with torch.no_grad():
        sae.W_dec.copy_(torch.cat([torch.eye(D_IN), -torch.eye(D_IN)]))
        sae.W_enc.copy_(sae.W_dec.t())
    return sae


def constant(mean: Tensor, d_out: int | None = None) -> Standard:
    """A dictionary of which no feature is ever active: x̂ = mean."""
    sae = Standard(StandardConfig(d_in=D_IN, d_sae=8, d_out=d_out))
    with torch.no_grad():
        sae.b_dec.copy_(mean)
    return sae


def random_sae(**options: object) -> TopK:
    """Five of 64 features, each of them random."""
    sae = TopK(TopKConfig(d_in=D_IN, d_sae=64, k=5, **options))
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    return sae


def flat(evaluation: Evaluation) -> dict[str, float]:
    """All numbers of an evaluation by name, the ends of its intervals included."""
    numbers = dataclasses.asdict(evaluation)
    for name, ends in numbers.pop("intervals").items():
        numbers |= {f"{name} {end}": value for end, value in zip(("low", "high"), ends, strict=True)}
    return numbers
