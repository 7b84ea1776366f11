"""Measures of agreement against published worked examples, and against the packages krippendorff and scikit-learn."""

import krippendorff
import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import cohen_kappa_score

from app.services.agreement_measures import (
    MIN_UNITS,
    MISSING,
    Bootstrap,
    Floats,
    Measure,
    ac1,
    alpha,
    confusion,
    extra_distance,
    kappa,
    kappa_with_others,
    masi,
    nominal,
    ordinal_alpha,
    quadratic,
    raw_agreement,
    value_counts,
)
from app.services.agreement_report import Estimate


def rows(*people: str) -> NDArray[np.int64]:
    """Return ratings `[units, people]` from a row of values per person; a dot is missing."""
    values = sorted({value for person in people for value in person.split()} - {"."})
    codes = {value: code for code, value in enumerate(values)} | {".": MISSING}
    return np.array([[codes[value] for value in person.split()] for person in people]).T


def table(*counts: list[int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return two people's ratings from a table of how often one gave the row's value and the other the column's."""
    first, second = np.indices((len(counts), len(counts))).reshape(2, -1)
    return np.repeat(first, np.ravel(counts)), np.repeat(second, np.ravel(counts))


def value_of(measure: Measure) -> float:
    return float(measure.value(measure.rows.sum(axis=0, keepdims=True))[0])


def counts_of(ratings: NDArray[np.int64]) -> Floats:
    return value_counts(ratings, int(ratings.max()) + 1)


# Klaus Krippendorff, "Computing Krippendorff's Alpha-Reliability", 2011: his examples A, B, C and D.
BINARY = rows("0 1 0 0 0 0 0 0 1 0", "1 1 1 0 0 1 0 0 0 0")
TWO_PEOPLE = rows("a a b b d c c c e d d a", "b a b b b c c c e d d d")
FOUR_PEOPLE = rows(
    "1 2 3 3 2 1 4 1 2 . . .",
    "1 2 3 3 2 2 4 1 2 5 . 3",
    ". 3 3 3 2 3 4 2 2 5 1 .",
    "1 2 3 3 2 4 4 1 2 5 1 .",
)
# Cohen, "A coefficient of agreement for nominal scales", 1960, table 2.
COHEN = table([88, 10, 2], [14, 40, 6], [18, 10, 12])
# Gwet, "Handbook of inter-rater reliability", 2014, abstractors (irrCAC's `cont3x3abstractors`).
ABSTRACTORS = table([13, 0, 0], [0, 20, 7], [0, 4, 56])
# Gwet, "Kappa statistic is not satisfactory for assessing the extent of agreement between raters", 2002.
SKEWED = table([118, 5], [2, 0])


@pytest.mark.parametrize(
    ("measure", "published"),
    [
        (alpha(counts_of(BINARY), nominal(2)), 0.095),
        (alpha(counts_of(TWO_PEOPLE), nominal(5)), 0.692),
        (alpha(counts_of(FOUR_PEOPLE), nominal(5)), 0.743),
        (ordinal_alpha(counts_of(FOUR_PEOPLE)), 0.815),
        (alpha(counts_of(FOUR_PEOPLE), quadratic(5)), 0.849),  # his interval metric
        (ac1(counts_of(FOUR_PEOPLE)), 0.77544),  # of irrCAC, whose `cac.raw4raters` are the same ratings
        (raw_agreement(counts_of(FOUR_PEOPLE)), 0.8181818),
        (kappa(*COHEN, nominal(3)), 0.492),
        (kappa(*ABSTRACTORS, nominal(3)), 0.7964094),
        (ac1(counts_of(np.stack(ABSTRACTORS, axis=1))), 0.8493305),
        (alpha(counts_of(np.stack(ABSTRACTORS, axis=1)), nominal(3)), 0.7972585),
        (raw_agreement(counts_of(np.stack(ABSTRACTORS, axis=1))), 0.89),
        (kappa(*SKEWED, nominal(2)), -0.0234),
        (ac1(counts_of(np.stack(SKEWED, axis=1))), 0.941),
    ],
)
def test_the_published_value_comes_out(measure: Measure, published: float) -> None:
    digits = len(str(published).split(".")[1])
    assert round(value_of(measure), digits) == published


@pytest.mark.parametrize("seed", range(5))
def test_measures_equal_those_of_the_packages(seed: int) -> None:
    rng = np.random.default_rng(seed)
    true = rng.integers(5, size=60)
    ratings = np.where(rng.random((60, 4)) < 0.6, true[:, None], rng.integers(5, size=(60, 4)))
    ratings[rng.random((60, 4)) < 0.3] = MISSING
    counts = value_counts(ratings, 5)
    for level, measure in [("nominal", alpha(counts, nominal(5))), ("ordinal", ordinal_alpha(counts))]:
        expected = krippendorff.alpha(value_counts=counts, level_of_measurement=level)
        assert value_of(measure) == pytest.approx(expected, abs=1e-12)
    both = (ratings[:, 0] != MISSING) & (ratings[:, 1] != MISSING)
    for weights, distance in [(None, nominal(5)), ("quadratic", quadratic(5))]:
        expected = cohen_kappa_score(ratings[both, 0], ratings[both, 1], weights=weights, labels=range(5))
        assert value_of(kappa(ratings[:, 0], ratings[:, 1], distance)) == pytest.approx(expected, abs=1e-12)
    assert kappa(ratings[:, 0], ratings[:, 1], nominal(5)).units == both.sum()


def test_sets_have_masi_distances_and_an_alpha_of_them() -> None:
    sets = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 1], [0, 0, 1], [1, 1, 1]], dtype=bool)
    distance = masi(sets)
    assert distance[0].tolist() == [0, 1, 1, 1, 1, 1]  # only an empty set is like an empty set
    assert distance[1, 2] == pytest.approx(1 - 1 / 2 * 2 / 3)  # one holds the other
    assert distance[2, 3] == pytest.approx(1 - 1 / 3 * 1 / 3)  # they overlap
    assert distance[1, 4] == 1
    np.testing.assert_allclose(distance, distance.T)

    counts = np.random.default_rng(0).integers(3, size=(40, len(sets))).astype(float)
    expected = krippendorff.alpha(
        value_counts=counts,
        level_of_measurement=lambda v1, v2, i1, i2, n_v, dtype: distance[i1, i2],
    )
    assert value_of(alpha(counts, distance)) == pytest.approx(expected, abs=1e-12)

    single = masi(np.eye(4, dtype=bool))  # one category each: plain nominal distances
    np.testing.assert_allclose(single, nominal(4))


def test_a_person_is_compared_with_the_others_as_one() -> None:
    rng = np.random.default_rng(1)
    true = rng.integers(3, size=200)
    ratings = np.where(rng.random((200, 4)) < 0.9, true[:, None], rng.integers(3, size=(200, 4)))
    ratings[:, 3] = rng.integers(3, size=200)
    bootstrap = Bootstrap(200)
    good, stray = (bootstrap.estimate(extra_distance(ratings, person, nominal(3))) for person in (0, 3))
    assert stray.low is not None and stray.low > 0.3
    assert good.high is not None and good.high < 0
    assert value_of(kappa_with_others(ratings, 3, nominal(3))) == pytest.approx(0, abs=0.1)

    two = ratings[:, :2]
    assert value_of(kappa_with_others(two, 0, nominal(3))) == pytest.approx(value_of(kappa(*two.T, nominal(3))))
    assert bootstrap.estimate(extra_distance(two, 0, nominal(3))).value is None  # there are no others to compare with


def test_intervals_cover_the_population_value() -> None:
    rng = np.random.default_rng(2)

    def draw(units: int) -> Floats:
        true = rng.integers(3, size=units)
        ratings = np.where(rng.random((units, 3)) < 0.7, true[:, None], rng.integers(3, size=(units, 3)))
        return value_counts(ratings, 3)

    measures = [lambda counts: alpha(counts, nominal(3)), ordinal_alpha, ac1, raw_agreement]
    population = draw(200_000)
    truth = [value_of(measure(population)) for measure in measures]
    bootstrap = Bootstrap(80, resamples=300)
    hits = np.zeros(len(measures))
    for _ in range(100):
        counts = draw(80)
        for place, measure in enumerate(measures):
            found = bootstrap.estimate(measure(counts))
            assert found.low is not None and found.high is not None
            hits[place] += found.low <= truth[place] <= found.high
    assert (hits >= 87).all(), hits


def test_too_little_is_said_in_words() -> None:
    def of(ratings: NDArray[np.int64]) -> Estimate:
        return Bootstrap(len(ratings)).estimate(alpha(value_counts(ratings, 2), nominal(2)))

    nobody = of(np.full((0, 2), MISSING))
    assert (nobody.units, nobody.value) == (0, None)
    assert nobody.reason == "two people answered for no feature, and it takes 10"
    alone = np.full((40, 2), MISSING)
    alone[:, 0] = 1
    alone[: MIN_UNITS - 1, 1] = 0
    assert of(alone).reason == "two people answered for only 9 features, and it takes 10"

    same = of(np.zeros((30, 2), dtype=np.int64))
    assert same.value is None
    assert same.reason == "everybody gave the same answer everywhere, so chance explains it as well"
    rare = np.zeros((30, 2), dtype=np.int64)
    rare[0, 0] = 1
    once = of(rare)
    assert once.value is not None and once.low is None
    assert once.reason == "answers differ too rarely for an interval"


def test_an_interval_is_the_same_every_time_and_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = value_counts(np.random.default_rng(3).integers(3, size=(50, 3)), 3)
    once = Bootstrap(50).estimate(ac1(counts))
    monkeypatch.setattr("app.services.agreement_measures._WEIGHTS_AT_ONCE", 50 * 7)
    again = Bootstrap(50).estimate(ac1(counts))
    assert (again.low, again.high) == pytest.approx((once.low, once.high), abs=1e-12)


def test_confusion_counts_pairs_of_people() -> None:
    """Three people about two features: {x} {x} {y}, and {x, y} {y} {} with the third missing from a third feature."""
    chosen = np.array(
        [[[1, 0], [1, 0], [0, 1]], [[1, 1], [0, 1], [0, 0]], [[1, 0], [0, 0], [0, 0]]],
        dtype=bool,
    )
    rated = np.array([[1, 1, 1], [1, 1, 1], [1, 0, 0]], dtype=bool)
    found = confusion(chosen, rated)
    assert found.pairs == 6
    assert found.both.tolist() == [1, 1]
    assert found.one.tolist() == [2 + 2, 2 + 2]
    assert found.against.tolist() == [[0, 2, 1], [2, 0, 2], [1, 2, 0]]
