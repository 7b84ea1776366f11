"""Rates and effect sizes of features on two sides of texts."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy import sparse
from scipy.stats import norm

Figures = Float64[np.ndarray, " column"]
_Z = float(norm.ppf(0.975))


@dataclass(frozen=True)
class Rates:
    """Shares of texts on which features are active."""

    a: Figures
    b: Figures
    difference: Figures
    """a − b."""
    low: Figures
    high: Figures
    """Ends of the 95 % interval of the difference: Newcombe's (1998, method 10), from Wilson's of the two rates."""
    lift: Figures
    """a / b; NaN where b is 0."""


def compare_rates(
    active_a: Int64[np.ndarray, " column"], active_b: Int64[np.ndarray, " column"], n_a: int, n_b: int
) -> Rates:
    """Compare the shares of `n_a` and `n_b` texts."""
    a, b = active_a / n_a, active_b / n_b
    (low_a, high_a), (low_b, high_b) = wilson(active_a, n_a), wilson(active_b, n_b)
    with np.errstate(divide="ignore", invalid="ignore"):
        lift = np.where(b > 0, a / b, np.nan)
    return Rates(
        a=a,
        b=b,
        difference=a - b,
        low=a - b - np.hypot(a - low_a, high_b - b),
        high=a - b + np.hypot(high_a - a, b - low_b),
        lift=lift,
    )


def wilson(count: Int64[np.ndarray, " column"], n: int) -> tuple[Figures, Figures]:
    """Return the ends of the 95 % interval of rates `count / n` (Wilson, 1927)."""
    rate, z2 = np.asarray(count, np.float64) / n, _Z**2
    centre = (rate + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z * np.sqrt(rate * (1 - rate) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return centre - half, centre + half


def cohens_d(x: sparse.csc_array, is_a: Bool[np.ndarray, " row"]) -> Figures:
    """Return Cohen's d of each column, (mean of a − mean of b) / pooled standard deviation; NaN without a spread."""
    rows = sparse.csr_array(x, dtype=np.float64)
    means, squares = [], np.zeros(x.shape[1])
    for side in (is_a, ~is_a):
        own, n = rows[side], int(side.sum())
        mean = np.asarray(own.sum(axis=0)).ravel() / n
        means.append(mean)
        squares += np.maximum(np.asarray(own.power(2).sum(axis=0)).ravel() - n * mean**2, 0)
    spread = np.sqrt(squares / (len(is_a) - 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        d: Figures = np.where(spread > 1e-12, (means[0] - means[1]) / spread, np.nan)
    return d
