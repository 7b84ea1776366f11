"""Flags for features that are not what they seem; `spec` has the thresholds."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sae_core.corpora import Sequences
from sae_core.statistics.decoders import NearDecoders
from sae_core.statistics.spec import (
    ABSORPTION_GIVEN,
    ABSORPTION_TOKENS,
    DENSE_DENSITY,
    DUPLICATE_COSINE,
    DUPLICATE_GIVEN,
    MIN_COUNT,
    POSITIONAL_SHARE,
    POSITIONAL_WINDOW,
    SINGLE_TOKEN_SHARE,
    SPECIAL_TOKEN_SHARE,
    SPLITTING_COSINE,
    SPLITTING_COUNT,
    SPLITTING_GIVEN,
    SPLITTING_TIMES,
)
from sae_core.statistics.tokens import TopTokens
from sae_core.store import segments
from sae_core.store.activation_store import FeatureBlock
from sae_core.store.segments import Indices


@dataclass(frozen=True)
class Placement:
    """[features] activations by their place in the sequence."""

    in_window: Indices
    """The most activations in any window of length / 16 neighbouring positions."""
    after_special: Indices
    """Activations on the first token after one that is not counted."""


def placement(block: FeatureBlock, length: int, follows: NDArray[np.bool_]) -> Placement:
    """Count activations by their place in the sequence.

    Args:
        block: activations of some features.
        length: positions in a sequence.
        follows: result of `follows_uncounted` for all sequences.
    """
    flat = block.row.astype(np.int64) * length + block.position % length
    by_position = np.bincount(flat, minlength=block.n_features * length).reshape(block.n_features, length)
    window = max(1, length // POSITIONAL_WINDOW)
    cumulative = np.pad(by_position.cumsum(axis=1), ((0, 0), (1, 0)))
    in_window = (cumulative[:, window:] - cumulative[:, :-window]).max(axis=1)
    after = segments.total(follows[block.position].astype(np.float64), block.indptr)
    return Placement(in_window, after.astype(np.int64))


def follows_uncounted(sequences: Sequences) -> NDArray[np.bool_]:
    """True for counted tokens that start a sequence or follow a token that is not counted; [positions], flat."""
    before = np.pad(sequences.counted[:, :-1], ((0, 0), (1, 0)))
    starts: NDArray[np.bool_] = sequences.counted & ~before
    return starts.reshape(-1)


def health_flags(
    count: Indices,
    tokens: int,
    placed: Placement,
    top: TopTokens,
    near: NearDecoders,
    joint_near: Indices,
) -> dict[str, NDArray[np.bool_]]:
    """Return each flag for all features.

    Splitting and absorption are candidates: a person has to look. A feature that is active mostly where a more frequent
    one of a near direction is may be a part of its meaning that the dictionary splits off (Bricken et al. 2023). One
    that is active where the more frequent one is not, on a token that otherwise activates it, may have absorbed it
    there (Chanin et al. 2024, arXiv:2409.14507).

    Args:
        count: [n] activations.
        tokens: counted tokens.
        placed: activations by their place in the sequence.
        top: the features' top tokens.
        near: near decoders.
        joint_near: [n, 10] tokens on which the feature and its near decoder are both active.
    """
    enough = count >= MIN_COUNT
    others = np.where(near.ids >= 0, count[near.ids], 0)
    rarer = np.minimum(count[:, None], others)
    together = (joint_near > 0) & (joint_near >= DUPLICATE_GIVEN * rarer)
    common = (others >= SPLITTING_TIMES * count[:, None]) & (others <= DENSE_DENSITY * tokens)
    parent = common & (near.cosine >= SPLITTING_COSINE)
    given = joint_near / np.maximum(count[:, None], 1)
    return {
        "dead": count == 0,
        "dense": count > DENSE_DENSITY * tokens,
        "duplicate": (together & (near.cosine > DUPLICATE_COSINE)).any(axis=1),
        "positional": enough & (placed.in_window >= POSITIONAL_SHARE * count),
        "special_token": enough & (placed.after_special >= SPECIAL_TOKEN_SHARE * count),
        "single_token": enough & (top.shares[:, 0] >= SINGLE_TOKEN_SHARE),
        "splitting": (parent & (given >= SPLITTING_GIVEN)).any(axis=1) & (count >= SPLITTING_COUNT),
        "absorption": enough & (parent & (given < ABSORPTION_GIVEN) & _shares_top_tokens(top, near)).any(axis=1),
    }


def _shares_top_tokens(top: TopTokens, near: NearDecoders) -> NDArray[np.bool_]:
    """[n, 10] True where one of the feature's first top tokens is among those of its near decoder."""
    own = top.ids[:, None, :ABSORPTION_TOKENS, None]
    found: NDArray[np.bool_] = ((own >= 0) & (own == top.ids[near.ids][:, :, None, :])).any(axis=(2, 3))
    return found
