"""Flags for features that are not what they seem. Thresholds are here and nowhere else."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sae_core.corpora import Sequences
from sae_core.statistics.decoders import NearDecoders
from sae_core.statistics.tokens import TopTokens
from sae_core.store import segments
from sae_core.store.activation_store import FeatureBlock
from sae_core.store.segments import Indices

DENSE_DENSITY = 0.1
"""dense: active on more than this share of the counted tokens."""
DUPLICATE_COSINE = 0.95
"""duplicate: one of the near decoders has a cosine above this …"""
DUPLICATE_GIVEN = 0.5
"""… and is active on at least this share of the rarer one's tokens. (Alike but never together is splitting.)"""
SPLITTING_COSINE = 0.3
"""splitting, absorption: one of the near decoders, called the parent, has a cosine of at least this …"""
SPLITTING_TIMES = 2
"""… is active on at least this many times as many tokens, though it is not dense …"""
SPLITTING_GIVEN = 0.5
"""… and splitting: on at least this share of the feature's own tokens …"""
SPLITTING_COUNT = 10
"""… of which there are at least so many: fewer may be among another's by chance."""
ABSORPTION_GIVEN = 0.05
"""absorption: the parent is active on less than this share of the feature's tokens …"""
ABSORPTION_TOKENS = 3
"""… though one of the feature's first three top tokens is among the parent's ten."""
MIN_COUNT = 20
"""positional, special_token, single_token and absorption need this many activations: fewer may agree by chance."""
POSITIONAL_WINDOW = 16
"""positional: a window of sequence length / 16 positions …"""
POSITIONAL_SHARE = 0.9
"""… holds at least this share of the activations."""
SPECIAL_TOKEN_SHARE = 0.9
"""special_token: at least this share of the activations is on the first token after one that is not counted (BOS, the
separator of documents, any special token). Special tokens themselves are not counted, so nothing is known of them."""
SINGLE_TOKEN_SHARE = 0.95
"""single_token: one token id holds at least this share of the activation mass."""

THRESHOLDS: dict[str, float] = {
    "dense_density": DENSE_DENSITY,
    "duplicate_cosine": DUPLICATE_COSINE,
    "duplicate_given": DUPLICATE_GIVEN,
    "splitting_cosine": SPLITTING_COSINE,
    "splitting_times": SPLITTING_TIMES,
    "splitting_given": SPLITTING_GIVEN,
    "splitting_count": SPLITTING_COUNT,
    "absorption_given": ABSORPTION_GIVEN,
    "absorption_tokens": ABSORPTION_TOKENS,
    "min_count": MIN_COUNT,
    "positional_window": POSITIONAL_WINDOW,
    "positional_share": POSITIONAL_SHARE,
    "special_token_share": SPECIAL_TOKEN_SHARE,
    "single_token_share": SINGLE_TOKEN_SHARE,
}


@dataclass(frozen=True)
class Placement:
    """[features] activations by where in the sequence they are."""

    in_window: Indices
    """The most that any window of length / 16 neighbouring positions holds."""
    after_special: Indices
    """Those on the first token after one that is not counted."""


def placement(block: FeatureBlock, length: int, follows: NDArray[np.bool_]) -> Placement:
    """Count activations by place.

    Args:
        block: activations of some features.
        length: positions in a sequence.
        follows: what `follows_uncounted` gives for all sequences.
    """
    flat = block.row.astype(np.int64) * length + block.position % length
    by_position = np.bincount(flat, minlength=block.n_features * length).reshape(block.n_features, length)
    window = max(1, length // POSITIONAL_WINDOW)
    cumulative = np.pad(by_position.cumsum(axis=1), ((0, 0), (1, 0)))
    in_window = (cumulative[:, window:] - cumulative[:, :-window]).max(axis=1)
    after = segments.total(follows[block.position].astype(np.float64), block.indptr)
    return Placement(in_window, after.astype(np.int64))


def follows_uncounted(sequences: Sequences) -> NDArray[np.bool_]:
    """[positions] counted tokens whose predecessor in the sequence is not counted, or that start one; flat."""
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
    """The flags of all features.

    Splitting and absorption are candidates: a person has to look. A feature that is active mostly where a commoner one
    of a near direction is may be a part of its meaning that the dictionary splits off (Bricken et al. 2023). One that
    is active where the commoner one stays silent, on a token that the commoner one otherwise likes, may have absorbed
    it there (Chanin et al. 2024, arXiv:2409.14507).

    Args:
        count: [n] activations.
        tokens: counted tokens.
        placed: activations by place.
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
    """[n, 10] whether one of the feature's first top tokens is among those of its near decoder."""
    own = top.ids[:, None, :ABSORPTION_TOKENS, None]
    found: NDArray[np.bool_] = ((own >= 0) & (own == top.ids[near.ids][:, :, None, :])).any(axis=(2, 3))
    return found
