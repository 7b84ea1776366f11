"""How well scores tell positive texts from benign ones.

An alert is a score above a threshold, never one equal to it. Intervals are 95 %.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy  # its parts are imported when they are first used: stats takes a second
from jaxtyping import Float

Interval = tuple[float, float]
Scores = Float[np.ndarray, " texts"]

CONFIDENCE = 0.95
FPRS = (0.01, 0.001)
"""False-positive rates at which recall is reported."""
LOG_RANGE = (1e-3, 1e-1)
_DENSE = 100
"""Points of a ROC curve that are kept one by one, from its low corner."""
_SPREAD = 100
"""Points that are kept of the rest."""


@dataclass(frozen=True)
class Share:
    """A count out of texts, with its Clopper–Pearson interval, 95 %."""

    count: int
    texts: int
    interval: Interval

    @classmethod
    def of(cls, count: int, texts: int) -> "Share":
        """Return a share of at least one text."""
        return cls(count, texts, clopper_pearson(count, texts))

    @property
    def value(self) -> float:
        """The share."""
        return self.count / self.texts


@dataclass(frozen=True)
class RecallAt:
    """Share of positive texts above the lowest threshold at which benign ones stay within a rate.

    The threshold is read off the texts of the test themselves, so this describes the scores, not a threshold in use.
    """

    fpr: float
    recall: Share
    false_positives: int
    """Benign texts above the threshold, of `benign`."""
    benign: int

    @property
    def is_resolved(self) -> bool:
        """True if the benign texts are enough for one of them to be above the threshold within the rate."""
        return self.benign * self.fpr >= 1


@dataclass(frozen=True)
class RocPoint:
    """Shares of texts above a threshold."""

    threshold: float
    fpr: float
    recall: float


@dataclass(frozen=True)
class Performance:
    """Scores of one detector on texts that it was not made from."""

    positive: int
    benign: int
    auroc: float
    auroc_interval: Interval
    """DeLong's, 95 %, on the logit's scale."""
    log_auroc: float
    """Mean recall over log10 of the false-positive rate, from 0.001 to 0.1. Chance is 0.021."""
    recall_at: tuple[RecallAt, ...]
    recall: Share
    """Of positive texts above the calibrated threshold."""
    false_positives: Share
    """Of benign texts above the calibrated threshold."""
    roc: tuple[RocPoint, ...]
    """From (0, 0) to (1, 1): every point of the low corner, and a part of the rest."""


def measure(positive: Scores, benign: Scores, threshold: float) -> Performance:
    """Return how well a detector does on texts that it was not made from.

    Args:
        positive: at least one score.
        benign: at least one score.
        threshold: the calibrated one.
    """
    value, variance = auroc_and_variance(positive, benign)
    return Performance(
        positive=len(positive),
        benign=len(benign),
        auroc=value,
        auroc_interval=auroc_interval(value, variance, min(len(positive), len(benign))),
        log_auroc=log_auroc(positive, benign),
        recall_at=tuple(recall_at(positive, benign, fpr) for fpr in FPRS),
        recall=Share.of(int((positive > threshold).sum()), len(positive)),
        false_positives=Share.of(int((benign > threshold).sum()), len(benign)),
        roc=tuple(thin(roc(positive, benign))),
    )


def clopper_pearson(count: int, texts: int) -> Interval:
    """Return the Clopper–Pearson interval, 95 %, of a share."""
    found = scipy.stats.binomtest(count, texts).proportion_ci(CONFIDENCE, method="exact")
    return float(found.low), float(found.high)


# Ranks


def auroc_and_variance(positive: Scores, benign: Scores) -> tuple[float, float]:
    """Return the AUROC, ties counted half, and DeLong's variance of it.

    By midranks (Sun and Xu 2014, doi:10.1109/LSP.2014.2337313).
    """
    over_benign, over_positive = _placements(positive, benign)
    return float(over_benign.mean()), _variance(over_benign) + _variance(over_positive)


def auroc_difference(positive: Sequence[Scores], benign: Sequence[Scores]) -> tuple[float, Interval]:
    """Return how much the first detector's AUROC is above the second's, with DeLong's interval, 95 %.

    Args:
        positive: scores of both detectors on the same positive texts.
        benign: the same for benign texts.
    """
    first, second = (_placements(*scores) for scores in zip(positive, benign, strict=True))
    over_benign, over_positive = (one - other for one, other in zip(first, second, strict=True))
    difference = float(over_benign.mean())
    margin = _z() * math.sqrt(_variance(over_benign) + _variance(over_positive))
    return difference, (difference - margin, difference + margin)


def auroc_interval(value: float, variance: float, texts: int) -> Interval:
    """Return an interval of an AUROC, symmetric on the logit's scale.

    Where the scores separate the classes wholly, the variance is 0 and says nothing: then the bound is that of as many
    successes as the smaller class has texts (Clopper–Pearson).
    """
    if value in (0.0, 1.0):
        low, high = clopper_pearson(round(value * texts), texts)
        return low, high
    logit, margin = math.log(value / (1 - value)), _z() * math.sqrt(variance) / (value * (1 - value))
    low, high = (1 / (1 + math.exp(-bound)) for bound in (logit - margin, logit + margin))
    return low, high


def _placements(positive: Scores, benign: Scores) -> tuple[Scores, Scores]:
    """Return for each positive score the share of benign ones below it, and for each benign that of positive above."""
    together = scipy.stats.rankdata(np.concatenate([positive, benign]))
    below = (together[: len(positive)] - scipy.stats.rankdata(positive)) / len(benign)
    above = 1 - (together[len(positive) :] - scipy.stats.rankdata(benign)) / len(positive)
    return below, above


def _variance(values: Scores) -> float:
    """Return the variance of a mean."""
    return float(values.var(ddof=1) / len(values)) if len(values) > 1 else 0.0


def _z() -> float:
    return float(scipy.stats.norm.ppf((1 + CONFIDENCE) / 2))


# The curve


def roc(positive: Scores, benign: Scores) -> list[RocPoint]:
    """Return all points of the curve, from the strictest threshold, which is infinite, to one below all scores."""
    thresholds = np.unique(np.concatenate([positive, benign]))[::-1]
    above_positive = len(positive) - np.searchsorted(np.sort(positive), thresholds, side="right")
    above_benign = len(benign) - np.searchsorted(np.sort(benign), thresholds, side="right")
    rates = zip(thresholds.tolist(), above_benign / len(benign), above_positive / len(positive), strict=True)
    points = [RocPoint(threshold, float(fpr), float(recall)) for threshold, fpr, recall in rates]
    return [*points, RocPoint(float(np.nextafter(thresholds[-1], -np.inf)), 1.0, 1.0)]


def thin(points: Sequence[RocPoint]) -> list[RocPoint]:
    """Return the first corners of a curve, and some of the rest, of which the last."""
    corners = [
        point
        for number, point in enumerate(points)
        if number in (0, len(points) - 1)
        or not (
            points[number - 1].fpr == point.fpr == points[number + 1].fpr
            or points[number - 1].recall == point.recall == points[number + 1].recall
        )
    ]
    rest = corners[_DENSE:]
    kept = np.unique(np.linspace(0, len(rest) - 1, min(_SPREAD, len(rest))).round().astype(int))
    return [*corners[:_DENSE], *(rest[number] for number in kept)]


def recall_at(positive: Scores, benign: Scores, fpr: float) -> RecallAt:
    """Return the largest recall of a threshold that leaves at most a share `fpr` of the benign texts above it."""
    allowed = math.floor(fpr * len(benign) + 1e-9)
    threshold = np.sort(benign)[::-1][allowed] if allowed < len(benign) else -np.inf
    recalled = Share.of(int((positive > threshold).sum()), len(positive))
    return RecallAt(fpr, recalled, int((benign > threshold).sum()), len(benign))


def log_auroc(positive: Scores, benign: Scores) -> float:
    """Return the mean of recall over log10 of the false-positive rate, from 0.001 to 0.1.

    Recall at a rate is that of the lowest threshold whose rate is not larger: a curve of steps, not of lines between.
    """
    low, high = LOG_RANGE
    counts = np.arange(math.floor(low * len(benign) + 1e-9), math.floor(high * len(benign) + 1e-9) + 1)
    strongest = np.sort(benign)[::-1]
    recall = np.array([(positive > strongest[count]).mean() for count in counts])
    edges = np.clip(np.append(counts, counts[-1] + 1) / len(benign), low, high)
    return float((recall * np.diff(np.log10(edges))).sum() / math.log10(high / low))
