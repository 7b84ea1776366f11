"""Metrics of features: dead, dense, redundant, and splitting candidates."""

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from sae_core.evaluation.resampling import resample_features
from sae_core.saes import SAE
from sae_core.statistics.decoders import near_decoders
from sae_core.statistics.spec import (
    DENSE_DENSITY,
    SPLITTING_COSINE,
    SPLITTING_COUNT,
    SPLITTING_GIVEN,
    SPLITTING_TIMES,
)

BLOCK_BYTES = 32 << 20
"""Of each of the two blocks [pairs, tokens] that are compared at once."""


@dataclass
class FeatureCounts:
    """Tokens on which features are active, alone and together with those of a near decoder row."""

    max_cosine: Float[np.ndarray, " d_sae"]
    """Largest cosine of the feature's decoder row to another's: 1 where two features write the same direction."""
    pairs: Int64[Tensor, "2 pair"]
    """A feature, and one of its ten nearest decoder rows, of `SPLITTING_COSINE` or more."""
    active: Int64[Tensor, " d_sae"]
    joint: Int64[Tensor, " pair"]
    """Tokens on which both are active."""
    tokens: int = 0

    @classmethod
    def empty(cls, sae: SAE) -> Self:
        """Return counts over no tokens. Memory does not grow with tokens: the pairs are fixed here."""
        near = near_decoders(sae.W_dec)
        feature, neighbour = np.nonzero((near.ids >= 0) & (near.cosine >= SPLITTING_COSINE))
        device = sae.W_dec.device
        pairs = torch.from_numpy(np.stack([feature, near.ids[feature, neighbour].astype(np.int64)])).to(device)
        active = torch.zeros(sae.d_sae, dtype=torch.int64, device=device)
        joint = torch.zeros(pairs.shape[1], dtype=torch.int64, device=device)
        return cls(near.cosine[:, 0], pairs, active, joint)

    def add(self, f: Float[Tensor, "token d_sae"]) -> None:
        """Add the feature activations of some tokens."""
        active = (f > 0).T.contiguous()  # so that a feature's tokens are one run of memory
        self.active += active.sum(dim=1)
        size = max(1, BLOCK_BYTES // len(f))
        for pairs, joint in zip(torch.split(self.pairs, size, dim=1), torch.split(self.joint, size), strict=True):
            both = active[pairs[0]]
            both &= active[pairs[1]]
            joint += both.sum(dim=1)
        self.tokens += len(f)


def dead(counts: FeatureCounts) -> Bool[np.ndarray, " d_sae"]:
    """Return a mask of the features active on none of the tokens; the fewer tokens, the more seem dead."""
    return (counts.active == 0).cpu().numpy()


def dense(counts: FeatureCounts) -> Bool[np.ndarray, " d_sae"]:
    """Return a mask of the features active on more than a tenth of the tokens."""
    return (counts.active > DENSE_DENSITY * counts.tokens).cpu().numpy()


def splitting_candidates(counts: FeatureCounts) -> Bool[np.ndarray, " d_sae"]:
    """Return a mask of the features that are active mostly where a more frequent one of similar direction is.

    Feature i is one if for a feature j among its ten nearest decoder rows cos(i, j) ≥ 0.3, P(j | i) ≥ ½, and
    count(j) ≥ 2 count(i), which is P(i | j) ≤ ½ P(j | i). Such an i is a part of j's meaning that the dictionary splits
    off (Bricken et al. 2023). They are candidates only: a person has to look. A pair that is never active together is
    not among them, because rare features that are unrelated look alike that way. Nor is one with a dense j, which is
    active with everything.
    """
    feature, near = counts.pairs
    own, others = counts.active[feature], counts.active[near]
    one_sided = (counts.joint >= SPLITTING_GIVEN * own) & (others >= SPLITTING_TIMES * own)
    eligible = (own >= SPLITTING_COUNT) & (others <= DENSE_DENSITY * counts.tokens)
    found = torch.zeros_like(counts.active, dtype=torch.bool)
    found[feature[one_sided & eligible]] = True
    return found.cpu().numpy()


def feature_metrics(counts: FeatureCounts, seed: int) -> dict[str, Float64[Tensor, "1+replicate"]]:
    """Count dead, dense and splitting-candidate features, and give the dead ones' share and the mean largest cosine.

    Each for all features and for replicates of them, see `resample_features`.
    """
    n_dead = resample_features(dead(counts), seed)
    return {
        "dead": n_dead,
        "dead_fraction": n_dead / len(counts.active),
        "dense": resample_features(dense(counts), seed),
        "decoder_redundancy": resample_features(counts.max_cosine, seed) / len(counts.active),
        "splitting_candidates": resample_features(splitting_candidates(counts), seed),
    }
