"""An SAE's k-sparse probes on one text set beside their controls, with bootstrap intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64
from scipy import sparse

from sae_core.probing.pooling import PooledTexts
from sae_core.probing.probes import KS, Columns, Task, make_tasks, probe_all, probe_columns
from sae_core.progress import Progress, silent

REPLICATES = 2000
By = Literal["features", "random", "channels", "activations"]
"""Columns of a probe: features of the SAE; features of random dictionaries; single channels of the activations; all of
these."""
Against = Literal["random", "channels", "activations"]
Weights = Float64[np.ndarray, "1+replicate text"]
Values = Float64[np.ndarray, " 1+replicate"]


@dataclass(frozen=True)
class Figure:
    """A value with the ends of its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Probed:
    """How well probes of one kind tell the classes of the test texts, on average over the classes."""

    by: By
    k: int | None
    """Columns per probe; None for all."""
    accuracy: Figure
    """Share of texts, half of which are of the class: guessing scores 0.5."""
    auroc: Figure


@dataclass(frozen=True)
class Difference:
    """Accuracy of the SAE's features minus that of something else, on the same texts.

    Against `random` and `channels` it is the mean over the numbers of columns, each against as many columns; against
    all `activations` it is that of the largest number.
    """

    against: Against
    value: float
    low: float
    high: float
    """Ends of an interval that is wider than 95 %: those of all sets hold together with 95 % (Bonferroni)."""


@dataclass(frozen=True)
class ProbedSet:
    """What probing found on one text set."""

    classes: Sequence[str]
    train: int
    """Texts that probes are trained on, all classes together."""
    test: int
    resampled: int
    """Units that the bootstrap draws: test texts, or groups of texts that were made alike."""
    draws: int
    """Random dictionaries."""
    probes: Sequence[Probed]
    differences: Sequence[Difference]


@dataclass(frozen=True)
class _Scores:
    """Mean over the classes, in the sample and in each replicate."""

    accuracy: Values
    auroc: Values


def probe_set(
    pooled: PooledTexts,
    labels: Sequence[str],
    held_out: Bool[np.ndarray, " text"],
    *,
    alike: Sequence[str] | None = None,
    sets: int = 1,
    seed: int = 0,
    progress: Progress = silent,
) -> ProbedSet:
    """Probe for each class of a text set, and compare the SAE with its controls.

    Intervals are percentiles of a bootstrap (Efron 1979) over the test texts, the same for all probes, so that
    differences are of pairs. It draws the random dictionaries too. Training texts are not drawn: an interval says how
    far a value would move with other texts to test on, not with others to train on.

    Args:
        pooled: the SAE's latents first, then those of random dictionaries.
        labels: class of each text; at least two.
        held_out: True for the texts to test on. Both parts need texts of every class.
        alike: name of each text's group, where texts of a group were made alike: the bootstrap draws whole groups.
        sets: sets whose differences are read together, see `Difference`.
        seed: of the texts of other classes, and of the bootstrap.
        progress: in probes.
    """
    tasks = make_tasks(labels, held_out, seed)
    weights, resampled = _weights(held_out, alike, seed)
    features, *random = pooled.latents
    total = (len(KS) * (len(pooled.latents) + 1) + 1) * len(tasks)
    done = 0

    def score(x: Columns, k: int | None) -> _Scores:
        nonlocal done
        found = []
        for task in tasks:
            scores = probe_all(x, task) if k is None else probe_columns(x, task, k)
            found.append(_replicate(scores, task, weights))
            done += 1
            progress(done, total)
        return _mean(found)

    drawn = _drawn(len(random), seed)
    scores: dict[tuple[By, int | None], _Scores] = {}
    for k in KS:
        scores["features", k] = score(features, k)
        scores["random", k] = _mean([score(x, k) for x in random], drawn)
        scores["channels", k] = score(pooled.activations, k)
    scores["activations", None] = score(pooled.activations, None)
    return ProbedSet(
        classes=sorted(set(labels)),
        train=int((~held_out).sum()),
        test=int(held_out.sum()),
        resampled=resampled,
        draws=len(random),
        probes=[Probed(by, k, _figure(own.accuracy), _figure(own.auroc)) for (by, k), own in scores.items()],
        differences=_differences({key: own.accuracy for key, own in scores.items()}, 0.05 / sets),
    )


def _differences(accuracy: Mapping[tuple[By, int | None], Values], level: float) -> list[Difference]:
    found = []
    controls: tuple[Against, ...] = ("random", "channels", "activations")
    for against in controls:
        if against == "activations":
            values = accuracy["features", KS[-1]] - accuracy[against, None]
        else:
            values = np.mean([accuracy["features", k] - accuracy[against, k] for k in KS], axis=0)
        figure = _figure(values, level)
        found.append(Difference(against, figure.value, figure.low, figure.high))
    return found


# --- the bootstrap


def _weights(held_out: Bool[np.ndarray, " text"], alike: Sequence[str] | None, seed: int) -> tuple[Weights, int]:
    """Return how often the sample (once) and each replicate hold each text, and the number of units that are drawn."""
    names = np.arange(len(held_out)) if alike is None else np.array(alike)
    unit = np.zeros(len(held_out), np.int64)
    found, unit[held_out] = np.unique(names[held_out], return_inverse=True)
    drawn = np.random.default_rng(seed).multinomial(len(found), np.full(len(found), 1 / len(found)), size=REPLICATES)
    return np.concatenate([np.ones((1, len(found))), drawn])[:, unit], len(found)


def _drawn(draws: int, seed: int) -> Float64[np.ndarray, "draw 1+replicate"]:
    """Return how often the sample (once) and each replicate hold each random dictionary."""
    drawn = np.random.default_rng(seed + 1).multinomial(draws, np.full(draws, 1 / draws), size=REPLICATES)
    return np.concatenate([np.ones((1, draws)), drawn]).T


def _replicate(scores: Float64[np.ndarray, " tested"], task: Task, weights: Weights) -> _Scores:
    own = weights[:, task.test]
    with np.errstate(invalid="ignore", divide="ignore"):  # a replicate may hold no text of a class
        accuracy = own @ ((scores > 0) == task.is_test) / own.sum(axis=1)
        return _Scores(accuracy, auroc(scores, task.is_test, own))


def auroc(
    scores: Float64[np.ndarray, " tested"],
    positive: Bool[np.ndarray, " tested"],
    weights: Float64[np.ndarray, "replicate tested"],
) -> Float64[np.ndarray, " replicate"]:
    """Return P(score of a positive > score of another), ties counted half, with texts counted by their weights."""
    values, place = np.unique(scores, return_inverse=True)
    at = sparse.csr_array((np.ones(len(scores)), (np.arange(len(scores)), place)), shape=(len(scores), len(values)))
    own, others = (weights * positive) @ at, (weights * ~positive) @ at
    below = np.cumsum(others, axis=1) - others
    found: Float64[np.ndarray, " replicate"] = (own * (below + others / 2)).sum(axis=1) / (
        own.sum(axis=1) * others.sum(axis=1)
    )
    return found


def _mean(found: Sequence[_Scores], weights: Float64[np.ndarray, "score 1+replicate"] | None = None) -> _Scores:
    """Return the mean over classes or, weighted per replicate, over random dictionaries."""
    accuracy, ranked = (np.stack([getattr(one, name) for one in found]) for name in ("accuracy", "auroc"))
    return _Scores(np.average(accuracy, axis=0, weights=weights), np.average(ranked, axis=0, weights=weights))


def _figure(values: Values, level: float = 0.05) -> Figure:
    """Return the sample's value with percentiles of the replicates that have one."""
    low, high = np.nanpercentile(values[1:], [100 * level / 2, 100 * (1 - level / 2)])
    return Figure(float(values[0]), float(low), float(high))
