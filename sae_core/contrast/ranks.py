"""How well each column of a sparse matrix tells two groups of rows apart: AUROC, its interval, and a p value.

All columns at once, from the entries that are not 0: rows that are 0 in a column are tied below all others.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64
from scipy import sparse
from scipy.special import expit, gammaln, logit
from scipy.stats import norm, rankdata

MOST_EXACT = 12
"""A column with at most so many rows that are not 0 gets its p value from all permutations of the sides."""
_Z = float(norm.ppf(0.975))
_COLUMNS = 256
"""Columns whose permutations are enumerated at once."""

Figures = Float64[np.ndarray, " column"]


@dataclass(frozen=True)
class Separation:
    """One figure per column."""

    n_a: int
    n_b: int
    auroc: Figures
    """Probability that a row of a has a larger value than one of b, ties counted half."""
    low: Figures
    high: Figures
    """Ends of the 95 % interval of `auroc`."""
    p: Figures
    """Of no difference, two-sided."""
    exact: Bool[np.ndarray, " column"]
    """True where `p` is by permutation; else it is Mann–Whitney's, by its normal approximation."""
    active_a: Int64[np.ndarray, " column"]
    active_b: Int64[np.ndarray, " column"]
    """Rows of each side that are not 0."""


@dataclass(frozen=True)
class _Ties:
    """Rows that share a value in a column: the zeros of each column first, then its values ascending."""

    column: Int64[np.ndarray, " tie"]
    a: Float64[np.ndarray, " tie"]
    b: Float64[np.ndarray, " tie"]
    below_a: Float64[np.ndarray, " tie"]
    below_b: Float64[np.ndarray, " tie"]
    columns: int

    def sum(self, values: Float64[np.ndarray, " tie"]) -> Figures:
        """Sum values of ties by column."""
        sums: Figures = np.bincount(self.column, weights=values, minlength=self.columns)
        return sums


def separate(x: sparse.csc_array, is_a: Bool[np.ndarray, " row"]) -> Separation:
    """Compare the rows of a with the others in every column.

    The interval is DeLong's (1988, variance of the placements) on the logit scale, and Newcombe's (2006, method 5)
    where a column separates the sides completely and DeLong's has no width.

    Args:
        x: values ≥ 0.
        is_a: True for the rows of a; both sides have at least two rows.
    """
    n_a, n_b = int(is_a.sum()), int((~is_a).sum())
    ties = _ties(x, is_a)
    u = ties.sum(ties.a * (ties.below_b + ties.b / 2))
    auroc = u / (n_a * n_b)
    low, high = _delong(ties, auroc, n_a, n_b)
    complete = (auroc == 0) | (auroc == 1)
    low[complete], high[complete] = _newcombe(auroc[complete], n_a, n_b)
    active = x.astype(bool).astype(np.int64)
    active_a = np.asarray(active[is_a].sum(axis=0)).ravel()
    active_b = np.asarray(active[~is_a].sum(axis=0)).ravel()
    p = _mann_whitney(ties, u, n_a, n_b)
    exact = active_a + active_b <= MOST_EXACT
    p[exact] = _permuted(x, is_a, np.flatnonzero(exact))
    return Separation(n_a, n_b, auroc, low, high, p, exact, active_a, active_b)


def separate_scores(scores: Float64[np.ndarray, " row"], is_a: Bool[np.ndarray, " row"]) -> Separation:
    """Compare two groups of scores of any sign, as one column."""
    return separate(sparse.csc_array(rankdata(scores)[:, None]), is_a)


def separate_within(
    x: sparse.csc_array, is_a: Bool[np.ndarray, " row"], stratum: Int64[np.ndarray, " row"]
) -> Figures | None:
    """Return AUROCs over the pairs of rows of one stratum alone; None where no stratum has rows of both sides."""
    u, pairs = np.zeros(x.shape[1]), 0
    rows = sparse.csr_array(x)
    for number in np.unique(stratum):
        own = np.flatnonzero(stratum == number)
        n_a = int(is_a[own].sum())
        if 0 < n_a < len(own):
            ties = _ties(sparse.csc_array(rows[own]), is_a[own])
            u += ties.sum(ties.a * (ties.below_b + ties.b / 2))
            pairs += n_a * (len(own) - n_a)
    return u / pairs if pairs else None


def _ties(x: sparse.csc_array, is_a: Bool[np.ndarray, " row"]) -> _Ties:
    columns = x.shape[1]
    column = np.repeat(np.arange(columns), np.diff(x.indptr))
    stored = x.data != 0
    column, values, a = column[stored], x.data[stored], is_a[x.indices[stored]].astype(np.float64)
    order = np.lexsort((values, column))
    column, values, a = column[order], values[order], a[order]
    active_a = np.bincount(column, weights=a, minlength=columns)
    active = np.bincount(column, minlength=columns)
    zero_a = is_a.sum() - active_a
    zero_b = (~is_a).sum() - (active - active_a)
    starts = np.flatnonzero(np.r_[True, (column[1:] != column[:-1]) | (values[1:] != values[:-1])][: len(column)])
    own_a = np.add.reduceat(a, starts) if len(starts) else np.zeros(0)
    own_b = np.diff(np.r_[starts, len(column)]) - own_a
    own_column = column[starts]
    first = np.searchsorted(own_column, np.arange(columns))  # first tie of each column

    def below(own: Float64[np.ndarray, " tie"], zero: Figures) -> Float64[np.ndarray, " tie"]:
        before = np.r_[0.0, np.cumsum(own)]
        rows: Float64[np.ndarray, " tie"] = before[:-1] - before[first[own_column]] + zero[own_column]
        return rows

    nothing = np.zeros(columns)
    return _Ties(
        column=np.r_[np.arange(columns), own_column],
        a=np.r_[zero_a, own_a],
        b=np.r_[zero_b, own_b],
        below_a=np.r_[nothing, below(own_a, zero_a)],
        below_b=np.r_[nothing, below(own_b, zero_b)],
        columns=columns,
    )


def _delong(ties: _Ties, auroc: Figures, n_a: int, n_b: int) -> tuple[Figures, Figures]:
    of_a = (ties.below_b + ties.b / 2) / n_b
    of_b = (n_a - ties.below_a - ties.a / 2) / n_a
    variance = np.zeros(len(auroc))
    for weights, placements, n in ((ties.a, of_a, n_a), (ties.b, of_b, n_b)):
        spread = ties.sum(weights * (placements - auroc[ties.column]) ** 2)
        variance += spread / (n - 1) / n
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.sqrt(variance) / (auroc * (1 - auroc))
        return expit(logit(auroc) - _Z * error), expit(logit(auroc) + _Z * error)


def _newcombe(auroc: Figures, n_a: int, n_b: int) -> tuple[Figures, Figures]:
    """Return the θ at which `auroc` lies 1.96 standard errors away, by bisection."""

    def error(theta: Figures) -> Figures:
        mean = (n_a + n_b) / 2 - 1
        spread = 1 + mean * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        errors: Figures = np.sqrt(theta * (1 - theta) * spread / (n_a * n_b))
        return errors

    ends = []
    for side in (0.0, 1.0):
        near, far = auroc.copy(), np.full_like(auroc, side)
        for _ in range(60):
            middle = (near + far) / 2
            inside = np.abs(middle - auroc) <= _Z * error(middle)
            near, far = np.where(inside, middle, near), np.where(inside, far, middle)
        ends.append(far)
    return ends[0], ends[1]


def _mann_whitney(ties: _Ties, u: Figures, n_a: int, n_b: int) -> Figures:
    """Return p values by the normal approximation, corrected for ties and continuity, as `scipy.stats` has it."""
    n = n_a + n_b
    tied = ties.a + ties.b
    correction = ties.sum(tied**3 - tied) / (n * (n - 1))
    deviation = np.sqrt(n_a * n_b / 12 * np.maximum(n + 1 - correction, 0))
    with np.errstate(divide="ignore", invalid="ignore"):
        z = (np.abs(u - n_a * n_b / 2) - 0.5) / deviation
    p: Figures = np.where(deviation > 0, np.clip(2 * norm.sf(z), 0, 1), 1.0)
    return p


def _permuted(x: sparse.csc_array, is_a: Bool[np.ndarray, " row"], columns: Int64[np.ndarray, " chosen"]) -> Figures:
    """Return exact p values of the rank sum: over all ways in which the rows that are not 0 can be of a or b.

    Rows that are 0 have one rank, so a way with `m` rows in a stands for as many permutations as there are choices of
    the rest of a among them: binom(zeros, n_a − m).
    """
    n, n_a = len(is_a), int(is_a.sum())
    p = np.ones(len(columns))
    sizes = np.diff(x.indptr)[columns]
    for size in range(1, MOST_EXACT + 1):
        ways = (np.arange(2**size)[:, None] >> np.arange(size) & 1).astype(np.float64)
        weights = _share_of_permutations(ways.sum(axis=1), n, n_a, size)
        places = np.flatnonzero(sizes == size)
        for start in range(0, len(places), _COLUMNS):
            chunk = places[start : start + _COLUMNS]
            entries = x.indptr[columns[chunk]][:, None] + np.arange(size)
            above_zero = rankdata(x.data[entries], axis=1) + (n - size) / 2 - 0.5  # rank less that of the zeros
            expected = above_zero.sum(axis=1) * n_a / n
            seen = (above_zero * is_a[x.indices[entries]]).sum(axis=1)
            sums = ways @ above_zero.T
            extreme = np.abs(sums - expected) >= np.abs(seen - expected) - 1e-9
            p[chunk] = np.minimum(weights @ extreme, 1.0)
    return p


def _share_of_permutations(m: Float64[np.ndarray, " way"], n: int, n_a: int, size: int) -> Float64[np.ndarray, " way"]:
    def log_binomial(total: float, chosen: Float64[np.ndarray, " way"]) -> Float64[np.ndarray, " way"]:
        possible = (chosen >= 0) & (chosen <= total)
        inside = np.where(possible, chosen, 0)
        logs = gammaln(total + 1) - gammaln(inside + 1) - gammaln(total - inside + 1)
        return np.where(possible, logs, -np.inf)

    shares: Float64[np.ndarray, " way"] = np.exp(log_binomial(n - size, n_a - m) - log_binomial(n, np.array([n_a])))
    return shares
