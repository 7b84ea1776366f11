"""Agreement between people: Krippendorff's alpha, Gwet's AC1, Cohen's kappa and raw agreement, with intervals.

A unit is what people rate, here a feature. Ratings are codes from 0, `[units, people]`, `MISSING` where a person has
not rated. Each measure is a function of sums over units, so a bootstrap resample of the units is one row of weights,
and all resamples are one matrix product.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.services.agreement_report import Estimate

MISSING = -1
RESAMPLES = 1000
MIN_UNITS = 10
"""Units that two people must have rated before a number is given: with fewer, an interval says nothing."""
_MIN_DEFINED = 0.9
"""Share of resamples in which a measure must be defined, or it gets no interval."""
_WEIGHTS_AT_ONCE = 4_000_000

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Measure:
    """A measure of agreement: what each unit adds, and the value for the sums.

    `units` counts the units that say something about agreement, such as those that two people rated.
    """

    rows: Floats
    """`[units, n]`."""
    value: Callable[[Floats], Floats]
    """From sums `[resamples, n]` to values `[resamples]`; not a number where the measure is not defined."""
    units: int


class Bootstrap:
    """Resamples of units, the same ones for every measure.

    The percentile bootstrap over units, as Zapf, Castell, Morawietz and Karch (BMC Medical Research Methodology 16:93,
    2016) recommend for alpha with missing ratings.
    """

    def __init__(self, units: int, *, resamples: int = RESAMPLES, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self._drawn = np.zeros((resamples, units), dtype=np.uint8)
        for weights in self._drawn if units else ():
            weights += np.bincount(rng.integers(units, size=units), minlength=units).astype(np.uint8)

    def estimate(self, measure: Measure) -> Estimate:
        """Return the measure's value for all units, with its interval."""
        if measure.units < MIN_UNITS:
            return Estimate(measure.units, reason=_too_few(measure.units))
        at_once = max(1, _WEIGHTS_AT_ONCE // len(measure.rows))
        blocks = np.split(self._drawn, range(at_once, len(self._drawn), at_once))
        sums = [measure.rows.sum(axis=0, keepdims=True), *(block.astype(np.float64) @ measure.rows for block in blocks)]
        with np.errstate(divide="ignore", invalid="ignore"):
            return _estimate(measure.units, measure.value(np.concatenate(sums)))


def _too_few(units: int) -> str:
    features = f"only {units} feature{'s' if units > 1 else ''}" if units else "no feature"
    return f"two people answered for {features}, and it takes {MIN_UNITS}"


def _estimate(units: int, values: Floats) -> Estimate:
    """Return the estimate from the value of all units, which comes first, and those of resamples."""
    value, resampled = float(values[0]), values[1:][np.isfinite(values[1:])]
    if not np.isfinite(value):
        return Estimate(units, reason="everybody gave the same answer everywhere, so chance explains it as well")
    if len(resampled) < _MIN_DEFINED * (len(values) - 1):
        return Estimate(units, value, reason="answers differ too rarely for an interval")
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Estimate(units, value, float(low), float(high))


def value_counts(ratings: Codes, values: int) -> Floats:
    """Return how many people gave each value, `[units, values]`."""
    return np.asarray((ratings[:, :, None] == np.arange(values)).sum(axis=1), dtype=np.float64)


def nominal(values: int) -> Floats:
    """Return the distances of values that are the same or not, `[values, values]`."""
    return np.ones((values, values)) - np.eye(values)


def quadratic(values: int) -> Floats:
    """Return the squared distances of values in equal steps, `[values, values]`."""
    steps = np.arange(values, dtype=np.float64)
    return (steps[:, None] - steps) ** 2


def masi(chosen: NDArray[np.bool_]) -> Floats:
    """Return the MASI distances of sets, given as rows of what they contain, `[sets, sets]`.

    One minus Jaccard's index times monotonicity: 1 for equal sets, 2/3 where one holds the other, 1/3 where they
    overlap, 0 otherwise (Passonneau, "Measuring Agreement on Set-valued Items (MASI)", LREC 2006). Two empty sets are
    equal.
    """
    member = chosen.astype(np.float64)
    size = member.sum(axis=1)
    shared = member @ member.T
    union = size[:, None] + size - shared
    jaccard = np.divide(shared, union, out=np.ones_like(shared), where=union > 0)
    smaller, larger = np.minimum.outer(size, size), np.maximum.outer(size, size)
    monotonicity = np.select([shared == larger, shared == smaller], [1.0, 2 / 3], 1 / 3)
    return np.asarray(1.0 - jaccard * monotonicity)


def alpha(counts: Floats, distance: Floats) -> Measure:
    """Return Krippendorff's alpha of value counts, for distances that are given.

    `1 - D_o / D_e`, from the coincidences of units with two ratings or more (Krippendorff, "Computing Krippendorff's
    Alpha-Reliability", 2011, section D). `distance` is the squared difference of two values, 0 on the diagonal.
    """
    counts, others = _pairable(counts)
    observed = ((counts @ distance) * counts).sum(axis=1) / others

    def value(sums: Floats) -> Floats:
        totals = sums[:, :-1]
        expected = ((totals @ distance) * totals).sum(axis=1)
        return np.asarray(1.0 - (totals.sum(axis=1) - 1.0) * sums[:, -1] / expected)

    return Measure(np.column_stack([counts, observed]), value, _units(counts))


def ordinal_alpha(counts: Floats) -> Measure:
    """Return Krippendorff's alpha of value counts, whose values are ranks.

    The distance of two values is the number of ratings between their middles, squared, so it follows from the ratings
    (2011, section D, ordinal metric).
    """
    counts, others = _pairable(counts)
    values = counts.shape[1]
    coincidences = counts[:, :, None] * counts[:, None, :]
    coincidences[:, np.arange(values), np.arange(values)] -= counts
    coincidences /= others[:, None, None]

    def value(sums: Floats) -> Floats:
        totals, observed = sums[:, :values], sums[:, values:].reshape(-1, values, values)
        middle = np.cumsum(totals, axis=1) - totals / 2
        distance = (middle[:, :, None] - middle[:, None, :]) ** 2
        expected = np.einsum("rc,rck,rk->r", totals, distance, totals)
        return np.asarray(1.0 - (totals.sum(axis=1) - 1.0) * (observed * distance).sum(axis=(1, 2)) / expected)

    return Measure(
        np.concatenate([counts, coincidences.reshape(len(counts), values**2)], axis=1), value, _units(counts)
    )


def raw_agreement(counts: Floats) -> Measure:
    """Return the share of pairs of people who gave a unit the same value, averaged over units."""
    counts, _ = _pairable(counts)
    return Measure(_agreeing(counts), lambda sums: sums[:, 0] / sums[:, 1], _units(counts))


def ac1(counts: Floats) -> Measure:
    """Return Gwet's AC1 of value counts.

    Chance agreement is `Σ π (1 - π) / (values - 1)`, where π is the mean share of a value over all rated units (Gwet,
    British Journal of Mathematical and Statistical Psychology 61:29-48, 2008). Unlike kappa and alpha it stays high
    where almost everything has one value.
    """
    pairable, _ = _pairable(counts)
    ratings = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, ratings, out=np.zeros_like(counts), where=ratings > 0)

    def value(sums: Floats) -> Floats:
        observed = sums[:, 0] / sums[:, 1]
        share = sums[:, 2:] / sums[:, 2:].sum(axis=1, keepdims=True)
        chance = (share * (1.0 - share)).sum(axis=1) / (share.shape[1] - 1)
        return np.asarray((observed - chance) / (1.0 - chance))

    return Measure(np.concatenate([_agreeing(pairable), shares], axis=1), value, _units(pairable))


def kappa(first: Codes, second: Codes, distance: Floats) -> Measure:
    """Return Cohen's kappa of two people's ratings, `[units]` each, weighted by the distances of values.

    With nominal distances it is plain kappa (Cohen, Educational and Psychological Measurement 20:37-46, 1960), with
    others weighted kappa (Cohen, Psychological Bulletin 70:213-220, 1968).
    """
    shared = (first != MISSING) & (second != MISSING)
    ones, others = np.unique(first[shared]), np.unique(second[shared])
    return _kappa(
        (first[:, None] == ones) & shared[:, None],
        (second[:, None] == others) & shared[:, None],
        distance[np.ix_(ones, others)],
    )


def kappa_with_others(ratings: Codes, person: int, distance: Floats) -> Measure:
    """Return Cohen's kappa of one person's ratings with those of all others, who count as one person in each unit."""
    own, others = _one_and_others(ratings, person, len(distance))
    return _kappa(own, others, distance)


def extra_distance(ratings: Codes, person: int, distance: Floats) -> Measure:
    """Return how much farther a person is from the others than those are from each other, as mean distances."""
    own, others = _one_and_others(ratings, person, len(distance))
    apart = ((own @ distance) * others).sum(axis=1)
    rest, pairs = _pairable(value_counts(np.delete(ratings, person, axis=1), len(distance)))
    between = ((rest @ distance) * rest).sum(axis=1) / (np.maximum(rest.sum(axis=1), 1.0) * pairs)
    rows = np.column_stack([apart, own.sum(axis=1), between, rest.any(axis=1)])
    units = int(min(rows[:, 1].sum(), rows[:, 3].sum()))
    return Measure(rows, lambda sums: sums[:, 0] / sums[:, 1] - sums[:, 2] / sums[:, 3], units)


def _kappa(first: NDArray[np.bool_] | Floats, second: NDArray[np.bool_] | Floats, distance: Floats) -> Measure:
    """Return kappa of shares of values, `[units, n]` and `[units, m]`, 0 in units that are not shared."""
    first, second = first.astype(np.float64), second.astype(np.float64)
    apart = ((first @ distance) * second).sum(axis=1)
    values = len(distance)

    def value(sums: Floats) -> Floats:
        one, other, observed = sums[:, :values], sums[:, values:-1], sums[:, -1]
        return np.asarray(1.0 - observed * one.sum(axis=1) / ((one @ distance) * other).sum(axis=1))

    return Measure(np.column_stack([first, second, apart]), value, _units(first))


def _one_and_others(ratings: Codes, person: int, values: int) -> tuple[Floats, Floats]:
    """Return a person's values and the shares of the others', `[units, values]`, 0 where either is missing."""
    others = value_counts(np.delete(ratings, person, axis=1), values)
    total = others.sum(axis=1, keepdims=True)
    own = (ratings[:, person, None] == np.arange(values)) & (total > 0)
    shares = np.divide(others, total, out=np.zeros_like(others), where=total > 0)
    return own.astype(np.float64), shares * own.any(axis=1, keepdims=True)


def _pairable(counts: Floats) -> tuple[Floats, Floats]:
    """Return counts without those of units that fewer than two people rated, and how many others each rating has."""
    ratings = counts.sum(axis=1)
    return counts * (ratings > 1)[:, None], np.maximum(ratings - 1.0, 1.0)


def _agreeing(counts: Floats) -> Floats:
    """Return the share of agreeing pairs of each unit, and 1 for units with a pair, `[units, 2]`."""
    ratings = counts.sum(axis=1)
    pairs = ratings * (ratings - 1.0)
    agreeing = np.divide((counts * (counts - 1.0)).sum(axis=1), pairs, out=np.zeros_like(pairs), where=pairs > 0)
    return np.column_stack([agreeing, pairs > 0])


def _units(counts: Floats) -> int:
    return int((counts.sum(axis=1) > 0).sum())


@dataclass(frozen=True, slots=True)
class Confusion:
    """How pairs of people differ about categories, in pairs over all units."""

    both: Codes
    """Pairs in which both chose a category, `[categories]`."""
    one: Codes
    """Pairs in which one of the two chose it."""
    against: Codes
    """Pairs in which one chose the row's category and not the column's, and the other the reverse.

    `[categories + 1, categories + 1]`: the last stands for no category at all.
    """
    pairs: int


def confusion(chosen: NDArray[np.bool_], rated: NDArray[np.bool_]) -> Confusion:
    """Return how pairs of people differ, from what each chose, `[units, people, categories]`, where they rated."""
    none = ~chosen.any(axis=2, keepdims=True)
    member = (np.concatenate([chosen, none], axis=2) & rated[:, :, None]).astype(np.int64)
    people = rated.sum(axis=1).astype(np.int64)
    counts = member.sum(axis=1)
    without = counts[:, :, None] - np.einsum("upc,upk->uck", member, member)
    per_category = counts[:, :-1]
    return Confusion(
        both=(per_category * (per_category - 1) // 2).sum(axis=0),
        one=(per_category * (people[:, None] - per_category)).sum(axis=0),
        against=(without * without.transpose(0, 2, 1)).sum(axis=0),
        pairs=int((people * (people - 1) // 2).sum()),
    )
