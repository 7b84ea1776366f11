"""Intervals and tests of shares, and the bootstrap over items."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float64
from scipy import stats

from sae_core.auditing.results import Figure, Interval

Weights = Float64[np.ndarray, "1+replicate item"]
_Z = float(stats.norm.ppf(0.975))


def wilson(share: float, items: int) -> Interval | None:
    """Return Wilson's score interval (1927) of a share of independent items; a tie may count as one half."""
    if items == 0:
        return None
    centre = (share + _Z**2 / (2 * items)) / (1 + _Z**2 / items)
    half = _Z / (1 + _Z**2 / items) * np.sqrt(share * (1 - share) / items + _Z**2 / (4 * items**2))
    return max(0.0, float(centre - half)), min(1.0, float(centre + half))


def bootstrap_weights(items: int, replicates: int, seed: int) -> Weights:
    """Return how often the sample (once) and each replicate hold each item, drawn with replacement."""
    one = np.ones((1, items))
    if items < 2:
        return one
    drawn = np.random.default_rng(seed).multinomial(items, np.full(items, 1 / items), size=replicates)
    return np.concatenate([one, drawn])


def weighted_mean(values: Float[np.ndarray, " item"], weights: Weights) -> Float64[np.ndarray, " 1+replicate"]:
    """Return the mean over the items whose value is a number, of the sample and of each replicate."""
    defined = np.isfinite(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        means: Float64[np.ndarray, " 1+replicate"] = (weights[:, defined] @ values[defined]) / weights[:, defined].sum(
            axis=1
        )
    return means


def percentiles(replicates: Float64[np.ndarray, " 1+replicate"]) -> Interval | None:
    """Return the 2.5 and 97.5 percentiles of the replicates.

    None where more than a tenth are not numbers, and where both are equal: that is no certainty, but items of which too
    few differ for a bootstrap to see any spread.
    """
    finite = replicates[1:][np.isfinite(replicates[1:])]
    if not len(finite) or len(finite) < 0.9 * (len(replicates) - 1):
        return None
    low, high = np.percentile(finite, [2.5, 97.5])
    return (float(low), float(high)) if low < high else None


def share_figure(replicates: Float64[np.ndarray, " 1+replicate"], items: int) -> Figure | None:
    """Return a share of independent items: as `figure` does, but all or none of them with Wilson's interval."""
    found = figure(replicates)
    if found is None or found.interval is not None or found.value not in (0, 1):
        return found
    return Figure(found.value, wilson(found.value, items))


def figure(replicates: Float64[np.ndarray, " 1+replicate"]) -> Figure | None:
    """Return the sample's own value with the interval of the replicates; None if it is not a number."""
    value = float(replicates[0])
    return Figure(value, percentiles(replicates)) if np.isfinite(value) else None


def benjamini_hochberg(p: Sequence[float]) -> list[float]:
    """Return the q values of p values, in their order."""
    return [float(q) for q in stats.false_discovery_control(p, method="bh")] if len(p) else []


def half_test(score: float, items: int) -> float | None:
    """Return the two-sided p value of a share against one half, ties left out by rounding; None without items."""
    return float(stats.binomtest(round(score * items), items).pvalue) if items else None
