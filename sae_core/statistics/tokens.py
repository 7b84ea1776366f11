"""The tokens that a feature is active on, by share of its activation mass."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sae_core.statistics.spec import TOP_TOKENS
from sae_core.store import segments
from sae_core.store.activation_store import FeatureBlock


@dataclass(frozen=True)
class TopTokens:
    """[features, 10] each; id -1 = none."""

    ids: NDArray[np.int32]
    counts: NDArray[np.int64]
    shares: NDArray[np.float32]
    means: NDArray[np.float32]


def top_tokens(block: FeatureBlock, token_ids: NDArray[np.int32]) -> TopTokens:
    """Find the ten tokens that hold most of each feature's activation mass; ties by token id.

    Args:
        block: activations of some features.
        token_ids: of all sequences, flat, so that a stored position indexes it.
    """
    token = token_ids[block.position]
    order = segments.stable_order(block.row, token.astype(np.uint32))
    row, token = block.row[order], token[order]
    starts = segments.run_starts(row, token)
    indptr = np.append(starts, len(row))
    mass = segments.total(block.value[order].astype(np.float64), indptr)
    row, token, count = row[starts], token[starts], np.diff(indptr)
    feature_mass = segments.total(mass, segments.row_bounds(row, block.n_features))
    by_mass = np.lexsort((-mass, row))
    within = segments.rank_in_row(row, block.n_features)
    kept = by_mass[within < TOP_TOKENS]
    place = row[kept], within[within < TOP_TOKENS]
    shape = (block.n_features, TOP_TOKENS)
    result = TopTokens(
        np.full(shape, -1, np.int32),
        np.zeros(shape, np.int64),
        np.zeros(shape, np.float32),
        np.zeros(shape, np.float32),
    )
    result.ids[place] = token[kept]
    result.counts[place] = count[kept]
    result.shares[place] = mass[kept] / feature_mass[row[kept]]
    result.means[place] = mass[kept] / count[kept]
    return result
