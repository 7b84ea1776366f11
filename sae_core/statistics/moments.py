"""How often and how strongly each feature is active: count, maximum, mean, histogram, quantiles.

Each statistic is a function of a block of features and of the order of its non-zeros by `order_by_strength`. It returns
one row per feature of the block, zero for a dead feature.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sae_core.statistics.spec import BANDS, HISTOGRAM_BINS
from sae_core.store import segments
from sae_core.store.activation_store import FeatureBlock
from sae_core.store.segments import Indices


def order_by_strength(block: FeatureBlock) -> Indices:
    """Order the block's non-zeros by (feature, strongest first); equal ones by position."""
    # The bits of positive floats order as the floats do.
    return segments.stable_order(block.row, ~block.value.view(np.uint32))


def band_of(rank: Indices, count: Indices) -> Indices:
    """The band, 1 to 5, of the activation at `rank` (0 = strongest) among `count`: five bands of equal count.

    Where `count` is not a multiple of five the sizes differ by one at most, and below five some bands are empty.
    """
    return BANDS - BANDS * rank // np.maximum(count, 1)


def count(block: FeatureBlock, strongest_first: Indices) -> Indices:
    """Non-zero activations."""
    return block.count


def maximum(block: FeatureBlock, strongest_first: Indices) -> NDArray[np.float32]:
    """The highest activation."""
    return segments.maximum(block.value, block.indptr)


def mean(block: FeatureBlock, strongest_first: Indices) -> NDArray[np.float32]:
    """Mean of the non-zero activations."""
    mass = segments.total(block.value.astype(np.float64), block.indptr)
    return (mass / np.maximum(block.count, 1)).astype(np.float32)


def histogram(block: FeatureBlock, strongest_first: Indices) -> NDArray[np.int64]:
    """[n, 50] non-zero activations: bin b holds b/50 < value/max <= (b + 1)/50.

    Both are float32, so 50 · value is exact in float64, and where the true quotient is not a whole number it is
    further from one (2^-30) than float64's rounding reaches: these are the exact bins.
    """
    highest = segments.maximum(block.value, block.indptr)
    quotient = HISTOGRAM_BINS * block.value.astype(np.float64) / highest[block.row]
    bins = np.ceil(quotient).astype(np.int64) - 1
    flat = np.bincount(block.row.astype(np.int64) * HISTOGRAM_BINS + bins, minlength=block.n_features * HISTOGRAM_BINS)
    return flat.reshape(block.n_features, HISTOGRAM_BINS)


def band_edges(block: FeatureBlock, strongest_first: Indices) -> NDArray[np.float32]:
    """[n, 6] edge b (0 to 4) is the lowest activation in the bands above band b; edge 5 is the maximum."""
    descending = block.value[strongest_first]
    edges = np.zeros((block.n_features, BANDS + 1), np.float32)
    active = block.count > 0
    first, counts = block.indptr[:-1][active], block.count[active]
    for b in range(BANDS):
        above = -(-(BANDS - b) * counts // BANDS)  # the ceiling
        edges[active, b] = descending[first + above - 1]
    edges[active, BANDS] = descending[first]
    return edges


MOMENTS: dict[str, Callable[[FeatureBlock, Indices], NDArray[Any]]] = {
    "count": count,
    "max": maximum,
    "mean": mean,
    "histogram": histogram,
    "band_edges": band_edges,
}
"""Functions by the name of the statistic in `spec.PLAIN`."""
