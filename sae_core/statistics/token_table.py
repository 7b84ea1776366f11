"""The features that are active on each token: an activation store in the other order, held in memory.

With it, all that a feature shares with others is known in one pass over its own tokens. Without it, each part of the
pairs of features needs a pass over the store.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from sae_core.store.activation_store import ActivationStore
from sae_core.store.segments import Indices, bounds, stable_argsort

HELD_BYTES = 512 << 20
"""Memory for a table: 134 million non-zeros, or with their values half as many, less 16 bytes per token."""
CHUNK_NONZEROS = 1 << 22
"""Non-zeros sorted at once."""


def fits(store: ActivationStore, *, values: bool) -> bool:
    """True if the store's table may be held, with or without values."""
    held = (8 if values else 4) * sum(store.shard_nonzeros) + 16 * len(store.positions(range(store.n_shards)))
    return held <= HELD_BYTES


@dataclass(frozen=True)
class TokenTable:
    """The activations of a whole store, sorted by (position, feature)."""

    n_features: int
    first: Indices
    """[positions + 1] where each token's features start."""
    feature: NDArray[np.int32]
    value: NDArray[np.float32]
    """[non-zeros], or empty."""

    @cached_property
    def active(self) -> Indices:
        """[positions] features that are active on each token."""
        return np.diff(self.first)

    @classmethod
    def of(cls, store: ActivationStore, *, values: bool) -> Self:
        """Read the store once, some shards at a time."""
        nonzeros = sum(store.shard_nonzeros)
        feature, value = np.empty(nonzeros, np.int32), np.empty(nonzeros if values else 0, np.float32)
        active = [np.zeros(0, np.int64)]
        start = 0
        for shards in store.shard_groups(CHUNK_NONZEROS):
            positions = store.positions(shards)
            block = store.block(0, store.d_sae, shards)
            token = block.position - positions.start
            order = stable_argsort(token)
            stop = start + len(order)
            feature[start:stop] = block.row[order]
            if values:
                value[start:stop] = block.value[order]
            active.append(np.bincount(token, minlength=len(positions)))
            start = stop
        return cls(store.d_sae, bounds(np.concatenate(active)), feature, value)
