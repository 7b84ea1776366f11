"""How often and how strongly each feature is active: count, maximum, mean, histogram, quantiles."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sae_core.statistics.types import BANDS, HISTOGRAM_BINS
from sae_core.store import segments
from sae_core.store.activation_store import FeatureBlock
from sae_core.store.segments import Indices


@dataclass(frozen=True)
class Moments:
    """One row a feature; all zero for a dead one."""

    count: Indices
    max: NDArray[np.float32]
    mean: NDArray[np.float32]
    histogram: NDArray[np.int64]
    band_edges: NDArray[np.float32]


def moments(block: FeatureBlock, strongest_first: Indices) -> Moments:
    """Summarise the non-zero activations of each feature.

    Args:
        block: activations of some features.
        strongest_first: its non-zeros in order of `order_by_strength`.
    """
    maximum = segments.maximum(block.value, block.indptr)
    mass = segments.total(block.value.astype(np.float64), block.indptr)
    return Moments(
        count=block.count,
        max=maximum,
        mean=(mass / np.maximum(block.count, 1)).astype(np.float32),
        histogram=_histogram(block, maximum),
        band_edges=_band_edges(block, block.value[strongest_first]),
    )


def order_by_strength(block: FeatureBlock) -> Indices:
    """The block's non-zeros by (feature, strongest first); equal ones by position."""
    # The bits of positive floats order as the floats do.
    return segments.stable_order(block.row, ~block.value.view(np.uint32))


def band_of(rank: Indices, count: Indices) -> Indices:
    """The band, 1 to 5, of the activation at `rank` (0 = strongest) among `count`: five bands of equal count.

    Where `count` is no multiple of five the sizes differ by one at most, and below five some bands are empty.
    """
    return BANDS - BANDS * rank // np.maximum(count, 1)


def _histogram(block: FeatureBlock, maximum: NDArray[np.float32]) -> NDArray[np.int64]:
    """Bin b holds b/50 < value/max <= (b + 1)/50.

    Both are float32, so 50 · value is exact in float64, and where the true quotient is not a whole number it is
    further from one (2^-30) than float64's rounding reaches: these are the exact bins.
    """
    quotient = HISTOGRAM_BINS * block.value.astype(np.float64) / maximum[block.row]
    bins = np.ceil(quotient).astype(np.int64) - 1
    flat = np.bincount(block.row.astype(np.int64) * HISTOGRAM_BINS + bins, minlength=block.n_features * HISTOGRAM_BINS)
    return flat.reshape(block.n_features, HISTOGRAM_BINS)


def _band_edges(block: FeatureBlock, descending: NDArray[np.float32]) -> NDArray[np.float32]:
    """Edge b (0 to 4) is the smallest activation in the bands above band b; edge 5 is the maximum."""
    edges = np.zeros((block.n_features, BANDS + 1), np.float32)
    active = block.count > 0
    first, count = block.indptr[:-1][active], block.count[active]
    for b in range(BANDS):
        above = -(-(BANDS - b) * count // BANDS)  # the ceiling
        edges[active, b] = descending[first + above - 1]
    edges[active, BANDS] = descending[first]
    return edges
