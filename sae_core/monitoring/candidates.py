"""Candidates for a monitor: trained on one part of two sets of texts, calibrated on another, compared on a third.

SAE features stand beside what is simpler: a probe on raw activations, a difference of means, a bag of words, length.
Nothing is chosen on the test texts.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float
from torch import Tensor

from sae_core.errors import MonitorError
from sae_core.monitoring.calibration import calibrate, calibrate_monitor, shared_texts, suspects, texts_needed
from sae_core.monitoring.examples import Examples, Score, Source
from sae_core.monitoring.measures import Interval, Performance, auroc_and_variance, auroc_difference, measure
from sae_core.monitoring.monitor import (
    Calibration,
    Monitor,
)
from sae_core.monitoring.scoring import Followed
from sae_core.progress import Progress, silent
from sae_core.readings import Pool, Tokens, count_tokens

LEAST = 10
"""Texts of each kind that training needs, and those of the test."""


Follow = Callable[[Sequence[Monitor], Examples, Progress], Sequence[Followed]]
"""Scores texts with monitors, as whoever checks or watches a text does; reports in texts."""


@dataclass(frozen=True, eq=False)
class Candidate:
    """One way to tell positive texts from benign ones."""

    name: str
    """`feature`, `features-10`, `features-given`, `probe-mean`, `diffmean`, `words`, `length`, and so on."""
    monitor: Monitor | None
    """Calibrated; None of words and length, which do not run on a model."""
    calibration: Calibration
    live: Calibration | None
    """Of texts that are followed token by token, which alert at the first above it; None of words and length."""
    validation_auroc: float
    """On the calibration texts; the choice between candidates is made by it."""
    test: Performance
    out_of_distribution: Performance | None
    live_test: Performance | None
    """On the test texts followed token by token: of the largest score on the way, at the threshold of `live`."""
    suspects: tuple[int, ...]
    """Benign calibration texts that score above half of the positive ones, by their place in the benign set, highest
    first."""

    @property
    def is_baseline(self) -> bool:
        """True if it does without the SAE."""
        return not self.name.startswith("feature")


@dataclass(frozen=True, eq=False)
class Comparison:
    """All candidates on the same texts."""

    candidates: tuple[Candidate, ...]
    chosen: str
    """Name of the candidate that runs on the model and has the best AUROC on the calibration texts."""
    best_features: str
    """The same among those of SAE features."""
    best_baseline: str
    """The same among the others, words and length included."""
    lead: float
    """Test AUROC of the best baseline less that of the best features."""
    lead_interval: Interval
    """DeLong's, 95 %, on the same texts."""
    shared: tuple[tuple[int, int], ...]
    """Places of a positive and a benign text with the same words; both were left out."""

    def candidate(self, name: str) -> Candidate:
        """Return one candidate."""
        return next(candidate for candidate in self.candidates if candidate.name == name)

    @property
    def baseline_wins(self) -> bool:
        """True if the best baseline is better than the best features, beyond chance."""
        return self.lead_interval[0] > 0


def compare_candidates(
    positive: Examples,
    benign: Examples,
    source: Source,
    follow: Follow,
    *,
    name: str,
    fpr: float = 0.01,
    tokens: Tokens = "all",
    pool: Pool = "max",
    features: Sequence[int] | None = None,
    direction: Float[Tensor, " d_in"] | None = None,
    elsewhere: tuple[Examples, Examples] | None = None,
    progress: Progress = silent,
) -> Comparison:
    """Train, calibrate and compare all candidates.

    Candidates are trained on the reading. Their scores of other texts come from `follow`, so that thresholds and
    figures are of the very scores that a check gives: a reading has a TopK's features as the whole SAE computes them,
    and the monitor has them decoupled.

    Args:
        positive: texts that should alert.
        benign: texts that should not.
        source: what read them.
        follow: scores texts with monitors: `follow_texts` with the model of the source.
        name: of the monitors.
        fpr: false-positive rate that thresholds are set for.
        tokens: watched by all candidates but the bag of words.
        pool: of the features' activations.
        features: of a further candidate, `features-given`, whose weights are learned.
        direction: of a further candidate, `direction-given`, which alerts on a large projection on it; its length
            counts, and nothing of it is learned.
        elsewhere: positive and benign texts from elsewhere, on which thresholds are tried; their splits do not matter.
        progress: in candidates and texts.

    Raises:
        TooLittleText: the benign calibration texts cannot support the rate.
        MonitorError: too few texts are left of another kind, none of a kind has tokens that are watched, or the
            direction is not one of the hook point.
    """
    shared = shared_texts(positive.texts, benign.texts)
    rows_of_benign = _rest(benign, {row for _, row in shared})
    positive = positive.choose(_rest(positive, _same_words(positive, shared)))
    sides = positive, benign.choose(rows_of_benign)
    train, calibration, test = (tuple(side.part(split) for side in sides) for split in ("train", "calibration", "test"))
    _check_sizes(train, calibration, test, fpr)
    _check_tokens(train, tokens)
    abroad = tuple(_unseen(side, sides) for side in elsewhere or ())
    if direction is not None and (direction.shape != (source.sae.d_in,) or not direction.isfinite().all()):
        raise MonitorError(f"A direction at {source.hook} is a row of {source.sae.d_in} finite numbers.")
    from sae_core.monitoring.fits import candidate_fits  # scikit-learn, which a monitor that runs does not need

    fits = list(candidate_fits(train, source, tokens, pool, features, direction))
    total = len(fits) + sum(len(side) for side in (*calibration, *test, *abroad))
    trained: dict[str, Monitor | Score] = {}
    for number, (kind, fit) in enumerate(fits):
        trained[kind] = fit()
        progress(number + 1, total)
    done = len(fits)
    followed: list[Mapping[str, Followed]] = []
    for side in (*calibration, *test, *abroad):
        followed.append(_scores(trained, side, follow, _offset(progress, done, total)))
        done += len(side)
    calibration_rows = [row for row in rows_of_benign if benign.splits[row] == "calibration"]
    candidates = [
        _candidate(kind, one, [of_side[kind] for of_side in followed], calibration_rows, name, fpr)
        for kind, one in trained.items()
    ]
    best_features = _best(candidate for candidate in candidates if not candidate.is_baseline)
    best_baseline = _best(candidate for candidate in candidates if candidate.is_baseline)
    lead, interval = auroc_difference(
        *((of_side[best_baseline].scores, of_side[best_features].scores) for of_side in followed[2:4])
    )
    return Comparison(
        candidates=tuple(candidates),
        chosen=_best(candidate for candidate in candidates if candidate.monitor is not None),
        best_features=best_features,
        best_baseline=best_baseline,
        lead=lead,
        lead_interval=interval,
        shared=tuple(shared),
    )


def cautions(comparison: Comparison, chosen: str | None = None, title_of: Callable[[str], str] = str) -> list[str]:
    """Return what somebody who chooses a candidate has to know, one sentence each.

    Args:
        comparison: all candidates.
        chosen: name of the one; the best that reads the model by default.
        title_of: words for the name of a candidate.
    """
    candidate = comparison.candidate(chosen or comparison.chosen)
    found: list[str] = []
    low, high = comparison.lead_interval
    if comparison.baseline_wins:
        better, best = title_of(comparison.best_baseline), title_of(comparison.best_features)
        found.append(
            f"A baseline does better than the best SAE features: the AUROC of “{better}” is higher than that of "
            f"“{best}” by {comparison.lead:.3f} ({low:.3f} to {high:.3f})."
        )
    if candidate.test.auroc_interval[0] <= 0.5:
        found.append("On test texts it does no better than chance.")
    for where, performance in (
        ("test texts", candidate.test),
        ("texts from elsewhere", candidate.out_of_distribution),
        ("test texts that are followed token by token", candidate.live_test),
    ):
        if performance is not None and performance.false_positives.interval[0] > candidate.calibration.fpr:
            rate = performance.false_positives
            found.append(
                f"The threshold does not hold on {where}: {rate.count} of {rate.texts} benign ones are above it "
                f"({rate.value:.1%}), where {candidate.calibration.fpr:.1%} was asked for."
            )
    if comparison.shared:
        some = "1 text is" if len(comparison.shared) == 1 else f"{len(comparison.shared):,} texts are"
        found.append(f"{some} both positive and benign, and left out.")
    if candidate.suspects:
        found.append(
            f"{len(candidate.suspects)} of the {candidate.calibration.texts:,} benign texts for calibration score "
            "above half of the positive ones. Read those that a scan finds: a threshold set on positives misses others."
        )
    return found


def _scores(
    trained: Mapping[str, Monitor | Score], side: Examples, follow: Follow, progress: Progress
) -> dict[str, Followed]:
    """Return what each candidate gives the texts of a side; words and length do not follow a text."""
    monitors = {kind: one for kind, one in trained.items() if isinstance(one, Monitor)}
    found = dict(zip(monitors, follow(list(monitors.values()), side, progress), strict=True))
    for kind, one in trained.items():
        if not isinstance(one, Monitor):
            scores = one(side)
            found[kind] = Followed(scores, scores)
    return found


def _candidate(
    kind: str, one: Monitor | Score, followed: Sequence[Followed], rows: Sequence[int], name: str, fpr: float
) -> Candidate:
    """Return a candidate; `followed` are calibration and test texts, and those from elsewhere if there are any."""
    positive, benign, *tested = followed
    monitor = calibrate_monitor(replace(one, name=name), benign, fpr) if isinstance(one, Monitor) else None
    found = calibrate(benign.scores, fpr)
    live = monitor.live if monitor else None
    test, *abroad = (
        measure(of_positive.scores, of_benign.scores, found.threshold)
        for of_positive, of_benign in zip(tested[::2], tested[1::2], strict=True)
    )
    return Candidate(
        name=kind,
        monitor=monitor,
        calibration=found,
        live=live,
        validation_auroc=auroc_and_variance(positive.scores, benign.scores)[0],
        test=test,
        out_of_distribution=abroad[0] if abroad else None,
        live_test=measure(tested[0].peaks, tested[1].peaks, live.threshold) if live else None,
        suspects=tuple(rows[row] for row in suspects(positive.scores, benign.scores)),
    )


def _offset(progress: Progress, before: int, total: int) -> Progress:
    """Report a part of a work of `total` units that begins after `before`."""
    return lambda done, _of, _metrics=None, /: progress(before + done, total)


def _rest(side: Examples, without: set[int]) -> list[int]:
    return [row for row in range(len(side)) if row not in without]


def _unseen(side: Examples, sides: Sequence[Examples]) -> Examples:
    """Return the texts whose words are in neither of the sets that were trained on.

    Raises:
        MonitorError: none is left.
    """
    known = [text for other in sides for text in other.texts]
    rows = _rest(side, {row for _, row in shared_texts(known, side.texts)})
    if not rows:
        raise MonitorError("The second sets have no texts of their own: all are in the first ones. Give other sets.")
    return side.choose(rows)


def _same_words(positive: Examples, shared: Sequence[tuple[int, int]]) -> set[int]:
    """Return all positive texts that a benign one has the words of; `shared` names the first of each."""
    words = [positive.texts[row] for row, _ in shared]
    return {row for _, row in shared_texts(words, positive.texts)}


def _check_sizes(
    train: Sequence[Examples], calibration: Sequence[Examples], test: Sequence[Examples], fpr: float
) -> None:
    needed = texts_needed(fpr)
    for what, part in (("training", train), ("testing", test)):
        for kind, side in zip(("positive", "benign"), part, strict=True):
            if len(side) < LEAST:
                raise MonitorError(
                    f"{len(side)} {kind} texts are too few for {what}: it takes {LEAST}. A set is split 60 : 20 : 20 "
                    "into training, calibration and test."
                )
    if not len(calibration[0]):
        raise MonitorError("There is no positive text for calibration, so candidates cannot be compared. Give more.")
    if len(calibration[1]) < needed:
        calibrate(np.zeros(len(calibration[1])), fpr)  # says how many there should be


def _check_tokens(train: Sequence[Examples], tokens: Tokens) -> None:
    for kind, side in zip(("positive", "benign"), train, strict=True):
        if not count_tokens(side.reading, tokens).any():
            raise MonitorError(
                f"None of the {kind} texts has words of the {tokens}. Give chats that have, to a model with a chat "
                "format, or watch all tokens."
                if tokens in ("user", "assistant")
                else f"None of the {kind} texts has a token that counts. Give other texts."
            )


def _best(candidates: Iterable[Candidate]) -> str:
    return max(candidates, key=lambda candidate: candidate.validation_auroc).name
