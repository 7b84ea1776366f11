"""Differences between an SAE and its controls have intervals that hold what is there and no more."""

import numpy as np
import pytest
from scipy import sparse
from sklearn.metrics import roc_auc_score

from sae_core.probing import PooledTexts, ProbedSet, probe_set
from sae_core.probing.compare import auroc

CLASSES = ("art", "birds", "chess")
TEXTS = 240
LABELS = [CLASSES[number % 3] for number in range(TEXTS)]
HELD_OUT = np.arange(TEXTS) % 12 < 6


def made_up(strength: float, *, seed: int = 0, draws: int = 3) -> PooledTexts:
    """One latent per class tells it with this strength; random dictionaries and channels know nothing."""
    random = np.random.default_rng(seed)
    features = random.exponential(size=(TEXTS, 12)).astype(np.float32)
    for row, label in enumerate(LABELS):
        features[row, CLASSES.index(label)] += strength
    others = [random.exponential(size=(TEXTS, 12)).astype(np.float32) for _ in range(draws)]
    activations = random.normal(size=(TEXTS, 8)).astype(np.float32)
    return PooledTexts([sparse.csr_array(x) for x in (features, *others)], activations)


def of(found: ProbedSet, against: str) -> tuple[float, float, float]:
    (one,) = [one for one in found.differences if one.against == against]
    return one.low, one.value, one.high


def test_features_that_know_the_classes_beat_what_knows_nothing() -> None:
    seen = []
    found = probe_set(
        made_up(4.0), LABELS, HELD_OUT, progress=lambda done, total, _=None, /: seen.append((done, total))
    )
    assert (found.train, found.test, found.resampled, found.draws) == (120, 120, 120, 3)
    assert list(found.classes) == list(CLASSES)
    assert [(one.by, one.k) for one in found.probes] == [
        *((by, k) for k in (1, 2, 5) for by in ("features", "random", "channels")),
        ("activations", None),
    ]
    for one in found.probes:
        for figure in (one.accuracy, one.auroc):
            assert 0 <= figure.low <= figure.value <= figure.high <= 1
    assert found.probes[0].accuracy.low > 0.8 and found.probes[0].auroc.low > 0.9
    for against in ("random", "channels", "activations"):
        low, value, high = of(found, against)
        assert 0.2 < low < value < high < 0.6
    assert seen[-1] == (3 * (3 * 5 + 1), 48) and [done for done, _ in seen] == list(range(1, 49))


def test_nothing_is_found_where_nothing_is() -> None:
    wrong = 0
    for seed in range(6):
        for one in probe_set(made_up(0.0, seed=seed), LABELS, HELD_OUT, sets=5, seed=seed).differences:
            wrong += not one.low <= 0 <= one.high
    assert wrong <= 1  # of 18


def test_more_sets_widen_the_differences_and_nothing_else() -> None:
    one, five = (probe_set(made_up(0.8), LABELS, HELD_OUT, sets=sets) for sets in (1, 5))
    assert one.probes == five.probes
    for narrow, wide in zip(one.differences, five.differences, strict=True):
        assert wide.value == narrow.value and wide.low < narrow.low and wide.high > narrow.high


def test_texts_that_were_made_alike_are_drawn_together() -> None:
    pooled = made_up(0.8)
    alone = probe_set(pooled, LABELS, HELD_OUT)
    together = probe_set(pooled, LABELS, HELD_OUT, alike=[str(number // 24) for number in range(TEXTS)])
    assert (alone.resampled, together.resampled) == (120, 10)
    assert together.probes[0].accuracy.value == alone.probes[0].accuracy.value
    assert together.probes[0].accuracy != alone.probes[0].accuracy


def test_random_dictionaries_that_differ_widen_the_interval() -> None:
    pooled = made_up(2.0)
    same = PooledTexts([pooled.latents[0], *[pooled.latents[1]] * 3], pooled.activations)
    mixed = PooledTexts([pooled.latents[0], pooled.latents[0], *pooled.latents[2:]], pooled.activations)
    low, _, high = of(probe_set(same, LABELS, HELD_OUT), "random")
    mixed_low, _, mixed_high = of(probe_set(mixed, LABELS, HELD_OUT), "random")
    assert mixed_high - mixed_low > 1.5 * (high - low)


def test_weighted_auroc_is_that_of_repeated_texts() -> None:
    random = np.random.default_rng(0)
    scores = np.round(random.normal(size=40), 1)  # with ties
    positive = random.random(40) < 0.4
    weights = random.integers(0, 4, size=(5, 40))
    for found, times in zip(auroc(scores, positive, weights.astype(np.float64)), weights, strict=True):
        expected = roc_auc_score(np.repeat(positive, times), np.repeat(scores, times))
        assert found == pytest.approx(expected)
