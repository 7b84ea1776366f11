"""Scores of blind tests: how well answers that were given from a label alone agree with what the feature does."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.services.blind_items import INTRUDER_SNIPPETS

_Z = 1.959964
"""Standard normal quantile of a 95 % interval."""
_REPLICATES = 2_000
_SEED = 0

CHANCE = 0.5
"""Balanced accuracy of a tester who guesses, or always says the same."""
INTRUDER_CHANCE = 1 / INTRUDER_SNIPPETS


@dataclass(frozen=True, slots=True)
class BlindAnswer:
    """One answer beside the truth, both as `BlindItem.truth` has it."""

    truth: int
    said: int
    why: str
    confidence: float | None = None
    """How sure the tester is of a yes, from 0 to 1; or the share of several testers who said yes."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class KindScore:
    """Correct answers among the items of one kind of snippet."""

    correct: int
    items: int
    share: Estimate


@dataclass(frozen=True, slots=True)
class YesNoScore:
    """The score of a test of detection or fuzzing. `auprc` needs confidences, or votes; `base_rate` is its floor."""

    items: int
    balanced_accuracy: Estimate
    f1: Estimate
    auprc: Estimate | None
    base_rate: float
    """Share of the items of which the truth is yes."""
    by_kind: dict[str, KindScore]


@dataclass(frozen=True, slots=True)
class IntruderScore:
    """The score of an intruder test."""

    items: int
    accuracy: Estimate
    by_kind: dict[str, KindScore]


def score_yes_no(answers: Sequence[BlindAnswer]) -> YesNoScore:
    """Score a test of detection or fuzzing; its items have both truths.

    Balanced accuracy is the mean of the share of yes among the positive items and of no among the others. A label that
    says too much ("any text") has high recall, and balanced accuracy cannot tell it from one that says too little: F1
    and AUPRC, and the shares by kind, can.

    Raises:
        ValueError: the truth is the same everywhere.
    """
    truth = np.array([answer.truth for answer in answers], bool)
    said = np.array([answer.said for answer in answers], bool)
    if truth.all() or not truth.any():
        raise ValueError("a test has items of both kinds")
    return YesNoScore(
        items=len(answers),
        balanced_accuracy=_balanced_accuracy(truth, said),
        f1=_f1(truth, said),
        auprc=_auprc(truth, [answer.confidence for answer in answers]),
        base_rate=float(truth.mean()),
        by_kind=_by_kind(answers),
    )


def score_intruder(answers: Sequence[BlindAnswer]) -> IntruderScore:
    """Score an intruder test."""
    correct = sum(answer.said == answer.truth for answer in answers)
    return IntruderScore(len(answers), _share(correct, len(answers)), _by_kind(answers))


def wilson(correct: int, items: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson 1927), which is wider than a point even at 0 and 1."""
    share, spread = correct / items, _Z**2 / items
    centre = share + spread / 2
    half = _Z * math.sqrt(share * (1 - share) / items + spread / (4 * items))
    return max(0.0, (centre - half) / (1 + spread)), min(1.0, (centre + half) / (1 + spread))


def average_precision(truth: NDArray[np.bool_], confidence: NDArray[np.float64]) -> float:
    """Return the area under the precision-recall curve: the sum of precision times gain of recall, ties as one step."""
    values, of = np.unique(-confidence, return_inverse=True)
    hits = np.cumsum(np.bincount(of, truth, len(values)))
    seen = np.cumsum(np.bincount(of, minlength=len(values)))
    return float(np.sum(np.diff(hits, prepend=0) * hits / seen) / hits[-1])


def _share(correct: int, items: int) -> Estimate:
    return Estimate(correct / items, *wilson(correct, items))


def _by_kind(answers: Iterable[BlindAnswer]) -> dict[str, KindScore]:
    """Return the correct answers by kind of snippet, kinds in order of name."""
    found: dict[str, list[bool]] = {}
    for answer in answers:
        found.setdefault(answer.why, []).append(answer.said == answer.truth)
    return {
        why: KindScore(sum(correct), len(correct), _share(sum(correct), len(correct)))
        for why, correct in sorted(found.items())
    }


def _balanced_accuracy(truth: NDArray[np.bool_], said: NDArray[np.bool_]) -> Estimate:
    """Return it with the interval that the Wilson intervals of both shares give (MOVER: Zou and Donner 2008)."""
    shares = [_share(int((said[truth == kind] == kind).sum()), int((truth == kind).sum())) for kind in (True, False)]
    value = sum(share.value for share in shares) / 2
    below = math.hypot(*(share.value - share.low for share in shares)) / 2
    above = math.hypot(*(share.high - share.value for share in shares)) / 2
    return Estimate(value, max(0.0, value - below), min(1.0, value + above))


def _f1(truth: NDArray[np.bool_], said: NDArray[np.bool_]) -> Estimate:
    """Return F1 with its credible interval under Jeffreys' priors (Goutte and Gaussier 2005).

    A bootstrap would give an interval of no width where every answer is right.
    """
    hits = int((truth & said).sum())
    errors = int((truth != said).sum())
    random = np.random.default_rng(_SEED)
    u, v = 2 * random.gamma(hits + 0.5, size=_REPLICATES), random.gamma(errors + 1.0, size=_REPLICATES)
    low, high = np.quantile(u / (u + v), (0.025, 0.975)).tolist()
    value = 2 * hits / (2 * hits + errors) if hits else 0.0
    return Estimate(value, min(low, value), max(high, value))


def _auprc(truth: NDArray[np.bool_], confidences: Sequence[float | None]) -> Estimate | None:
    """Return it with a bootstrap interval over items, positives and others apart; None without confidences."""
    known = [value for value in confidences if value is not None]
    if len(known) < len(confidences) or len(set(known)) < 2:
        return None
    confidence = np.array(known)
    random = np.random.default_rng(_SEED)
    yes, no = np.flatnonzero(truth), np.flatnonzero(~truth)
    drawn = (np.concatenate([random.choice(yes, len(yes)), random.choice(no, len(no))]) for _ in range(_REPLICATES))
    replicates = [average_precision(truth[items], confidence[items]) for items in drawn]
    low, high = np.quantile(replicates, (0.025, 0.975)).tolist()
    value = average_precision(truth, confidence)
    return Estimate(value, min(low, value), max(high, value))
