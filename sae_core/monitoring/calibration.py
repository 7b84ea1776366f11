"""The threshold for a false-positive rate, from scores of benign texts."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from sae_core.errors import MonitorError, TooLittleText
from sae_core.monitoring.measures import CONFIDENCE, clopper_pearson
from sae_core.monitoring.monitor import Calibration, Monitor
from sae_core.monitoring.scoring import Followed

Scores = Float[np.ndarray, " texts"]


def calibrate(scores: Scores, fpr: float) -> Calibration:
    """Return the threshold that new benign texts exceed with a probability of at most `fpr`.

    It is an order statistic: of n scores, ⌊fpr · (n + 1)⌋ − 1 are allowed above it. If the texts to come are like
    these, the next one is above it with a probability of at most `fpr` (Vovk et al. 2005, split conformal prediction).

    Args:
        scores: of benign texts that nothing was trained on.
        fpr: between 0 and 1.

    Raises:
        TooLittleText: there are fewer than `texts_needed` scores.
        MonitorError: the rate is not between 0 and 1, or a score is not finite.
    """
    needed = texts_needed(fpr)
    if len(scores) < needed:
        least = "" if not len(scores) else f", or ask for {smallest_fpr(len(scores)):.2%}"
        raise TooLittleText(
            f"{len(scores):,} benign texts cannot support a false-positive rate of {fpr:.2%}: even if none were "
            f"above the threshold, the true rate could be higher. Give {needed:,} texts for calibration{least}."
        )
    ascending = np.sort(np.asarray(scores, np.float64))
    if not np.isfinite(ascending).all():
        raise MonitorError("A score of the benign texts is not a finite number.")
    allowed = math.floor(fpr * (len(ascending) + 1) + 1e-9) - 1
    return calibration_of(float(ascending[len(ascending) - 1 - allowed]), ascending, fpr)


def calibrate_monitor(monitor: Monitor, benign: Followed, fpr: float) -> Monitor:
    """Return the monitor with its two thresholds: of whole texts, and of texts that grow token by token.

    A growing text alerts at the first of its tokens at which its score is above the threshold, so what counts of it is
    the largest score that it has on its way. It is never the lower threshold of the two.

    Args:
        monitor: the monitor.
        benign: its scores of benign calibration texts (`follow_texts`).
        fpr: rate of texts that may alert: at their end, or at any of their tokens.

    Raises:
        TooLittleText, MonitorError: as `calibrate`.
    """
    whole, live = calibrate(benign.scores, fpr), calibrate(benign.peaks, fpr)
    return replace(monitor, threshold=whole.threshold, calibration=whole, live=live)


def calibration_of(threshold: float, scores: Scores, fpr: float) -> Calibration:
    """Return what a threshold, for instance one given by hand, does on benign texts."""
    exceeding = int((scores > threshold).sum())
    interval = clopper_pearson(exceeding, len(scores))
    return Calibration(threshold, fpr, len(scores), exceeding, interval, np.sort(np.asarray(scores, np.float64)))


def texts_needed(fpr: float) -> int:
    """Return the fewest texts that can support a rate: if none is above, the rate is below `fpr` with 95 % confidence.

    From (1 − fpr)^n ≤ 0.05: 299 texts for 1 %, 2,995 for 0.1 %.

    Raises:
        MonitorError: the rate is not between 0 and 1.
    """
    if not 0 < fpr < 1:
        raise MonitorError(f"A false-positive rate of {fpr:g} makes no sense: give one between 0 and 1, such as 0.01.")
    return max(math.ceil(math.log(1 - CONFIDENCE) / math.log1p(-fpr)), math.ceil(1 / fpr - 1))


def smallest_fpr(texts: int) -> float:
    """Return the smallest rate that this many texts can support, rounded up to a hundredth of a percent."""
    rate = max(-math.expm1(math.log(1 - CONFIDENCE) / texts), 1 / (texts + 1))
    return min(math.ceil(rate * 1e4) / 1e4, 0.9999)


def shared_texts(positive: Sequence[str], benign: Sequence[str]) -> list[tuple[int, int]]:
    """Return the pairs of a positive and a benign text with the same words; case and white space do not count."""
    known: dict[str, int] = {}
    for number, text in enumerate(positive):
        known.setdefault(_words(text), number)
    pairs = ((known.get(_words(text)), number) for number, text in enumerate(benign))
    return [(first, second) for first, second in pairs if first is not None]


def suspects(positive: Scores, benign: Scores) -> list[int]:
    """Return the benign texts that score above half of the positive ones, highest first: they may be positive."""
    order = np.argsort(-benign, kind="stable")
    return [int(number) for number in order if benign[number] > np.median(positive)]


def _words(text: str) -> str:
    return " ".join(text.casefold().split())
