"""Measures of scores, beside scikit-learn, scipy and plain counting."""

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score, roc_curve

from sae_core.monitoring.measures import (
    auroc_and_variance,
    auroc_difference,
    auroc_interval,
    clopper_pearson,
    log_auroc,
    measure,
    recall_at,
    roc,
)


def made(seed: int, positive: int = 160, benign: int = 1500, *, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    scores = generator.normal(1.5, 1.3, positive), generator.normal(0, 1, benign)
    return tuple(np.round(side, 1) if ties else side for side in scores)  # type: ignore[return-value]


def together(positive: np.ndarray, benign: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.repeat([1, 0], [len(positive), len(benign)]), np.concatenate([positive, benign])


@pytest.mark.parametrize("ties", [False, True])
def test_measures_are_those_of_scikit_learn(ties: bool) -> None:
    positive, benign = made(0, ties=ties)
    labels, scores = together(positive, benign)
    found = measure(positive, benign, 2.0)
    assert found.auroc == pytest.approx(roc_auc_score(labels, scores))
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    for recall in found.recall_at:
        assert recall.recall.value == pytest.approx(tpr[fpr <= recall.fpr + 1e-12].max())
        assert recall.false_positives <= recall.fpr * 1500
        assert recall.recall.count == round(recall.recall.value * 160)
        assert recall.is_resolved
    assert not recall_at(positive, benign[:500], 0.001).is_resolved
    assert found.recall.count == sum(score > 2.0 for score in positive)
    assert found.false_positives.count == sum(score > 2.0 for score in benign)
    low = stats.beta.ppf(0.025, found.recall.count, 160 - found.recall.count + 1)
    high = stats.beta.ppf(0.975, found.recall.count + 1, 160 - found.recall.count)
    assert found.recall.interval == pytest.approx((low, high))
    points = [(point.fpr, point.recall) for point in roc(positive, benign)]
    np.testing.assert_allclose(points, np.stack([fpr, tpr], axis=1))
    assert {(point.fpr, point.recall) for point in found.roc} <= set(points)
    assert {point for point in points if point[0] <= 3 / 1500} & set(points)
    assert [(point.fpr, point.recall) for point in (found.roc[0], found.roc[-1])] == [(0, 0), (1, 1)]
    np.testing.assert_allclose(np.trapezoid(tpr, fpr), found.auroc)


def test_a_point_counts_what_is_above_its_threshold() -> None:
    positive, benign = made(3, ties=True)
    for point in measure(positive, benign, 0.0).roc:
        assert point.recall == pytest.approx((positive > point.threshold).mean())
        assert point.fpr == pytest.approx((benign > point.threshold).mean())


def test_the_variance_is_delongs() -> None:
    positive, benign = made(1, 40, 60, ties=True)
    wins = (positive[:, None] > benign) + 0.5 * (positive[:, None] == benign)
    variance = wins.mean(axis=1).var(ddof=1) / 40 + wins.mean(axis=0).var(ddof=1) / 60
    value, found = auroc_and_variance(positive, benign)
    assert value == pytest.approx(wins.mean())
    assert found == pytest.approx(variance)
    logit, margin = math.log(value / (1 - value)), 1.959964 * variance**0.5 / (value * (1 - value))
    expected = [1 / (1 + math.exp(-bound)) for bound in (logit - margin, logit + margin)]
    assert auroc_interval(value, found, 40) == pytest.approx(expected, rel=1e-6)
    assert auroc_interval(1.0, 0.0, 40) == pytest.approx((0.025 ** (1 / 40), 1.0))
    assert auroc_interval(0.0, 0.0, 40)[0] == 0


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    truth = stats.norm.cdf(1 / math.sqrt(2))
    generator = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        positive, benign = generator.normal(1, 1, 50), generator.normal(0, 1, 80)
        value, variance = auroc_and_variance(positive, benign)
        low, high = auroc_interval(value, variance, 50)
        hits += low <= truth <= high
    assert 0.92 <= hits / 400 <= 0.98


def test_a_difference_of_detectors_is_of_the_same_texts() -> None:
    positive, benign = made(2, 60, 90)
    noise = np.random.default_rng(9)
    others = positive + noise.normal(0, 0.5, 60), benign + noise.normal(0, 0.5, 90)
    difference, (low, high) = auroc_difference((positive, others[0]), (benign, others[1]))
    expected = roc_auc_score(*together(positive, benign)) - roc_auc_score(*together(*others))
    assert difference == pytest.approx(expected)
    wins = [(p[:, None] > b).astype(float) for p, b in ((positive, benign), others)]
    by_row, by_column = (wins[0].mean(axis=axis) - wins[1].mean(axis=axis) for axis in (1, 0))
    spread = (by_row.var(ddof=1) / 60 + by_column.var(ddof=1) / 90) ** 0.5
    assert (low, high) == pytest.approx((expected - 1.959964 * spread, expected + 1.959964 * spread), abs=1e-7)
    assert auroc_difference((positive, positive), (benign, benign)) == (0, (0, 0))


@pytest.mark.parametrize("benign_texts", [60, 999, 1500])
def test_log_auroc_is_the_mean_recall_over_the_log_of_the_rate(benign_texts: int) -> None:
    positive, benign = made(4, benign=benign_texts)
    rates = np.logspace(-3, -1, 20_001)
    fpr, tpr, _ = roc_curve(*together(positive, benign), drop_intermediate=False)
    steps = [tpr[fpr <= rate].max() for rate in rates]
    assert log_auroc(positive, benign) == pytest.approx(np.mean(steps), abs=1e-3)
    assert log_auroc(benign + 100, benign) == pytest.approx(1)
    same = np.linspace(0, 1, 100_001)
    assert log_auroc(same, same) == pytest.approx(0.099 / math.log(100), abs=1e-4)


def test_clopper_pearson_is_scipys() -> None:
    assert clopper_pearson(0, 299) == pytest.approx((0, 1 - 0.025 ** (1 / 299)))
