"""The fast path is held to scipy and scikit-learn, column by column."""

from itertools import combinations

import numpy as np
import pytest
from scipy import sparse
from scipy.stats import mannwhitneyu, permutation_test, rankdata
from sklearn.metrics import roc_auc_score

from sae_core.contrast.ranks import Separation, separate, separate_scores, separate_within

N_A, N_B = 33, 41


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    """Columns from dead to dense, with ties; the last two separate the sides completely."""
    random = np.random.default_rng(0)
    rates = np.r_[0, 0.02, 0.05, 0.1, 0.3, 0.6, 1]
    x = np.round(random.random((N_A + N_B, 40)), 1) * (random.random((N_A + N_B, 40)) < np.resize(rates, 40))
    x[:N_A, ::3] *= random.random((N_A, 14)) < 0.6
    x[:, 38] = np.arange(N_A + N_B) < N_A
    x[:, 39] = 1 - x[:, 38]
    return x


@pytest.fixture(scope="module")
def is_a() -> np.ndarray:
    return np.arange(N_A + N_B) < N_A


@pytest.fixture(scope="module")
def found(x: np.ndarray, is_a: np.ndarray) -> Separation:
    return separate(sparse.csc_array(x), is_a)


def test_auroc_and_p_are_those_of_the_libraries(x: np.ndarray, is_a: np.ndarray, found: Separation) -> None:
    for column in range(x.shape[1]):
        a, b = x[is_a, column], x[~is_a, column]
        assert found.auroc[column] == pytest.approx(roc_auc_score(is_a, x[:, column]))
        assert (found.active_a[column], found.active_b[column]) == ((a > 0).sum(), (b > 0).sum())
        if not found.exact[column]:
            expected = mannwhitneyu(a, b, method="asymptotic").pvalue
            assert found.p[column] == pytest.approx(expected, rel=1e-9)
    assert found.p[0] == 1 and found.exact[0]
    assert (~found.exact).sum() > 10 < found.exact.sum()


def test_rare_features_get_p_values_from_all_permutations() -> None:
    random = np.random.default_rng(1)
    is_a = np.arange(12) < 5
    x = np.round(random.random((12, 30)), 1) * (random.random((12, 30)) < np.linspace(0.1, 1, 30))
    found = separate(sparse.csc_array(x), is_a)
    assert found.exact.all()
    chosen = [list(rows) for rows in combinations(range(12), 5)]
    for column in range(30):
        ranks = rankdata(x[:, column])
        sums = np.array([ranks[rows].sum() for rows in chosen])
        extreme = np.abs(sums - sums.mean()) >= abs(ranks[is_a].sum() - sums.mean()) - 1e-9
        assert found.p[column] == pytest.approx(extreme.mean())
    by_scipy = permutation_test(
        (x[is_a, 9], x[~is_a, 9]),
        lambda a, b: abs(mannwhitneyu(a, b).statistic - len(a) * len(b) / 2),
        n_resamples=np.inf,
        alternative="greater",
    )
    assert found.p[9] == pytest.approx(by_scipy.pvalue)


def test_intervals_are_delongs_and_have_width_where_sides_separate(
    x: np.ndarray, is_a: np.ndarray, found: Separation
) -> None:
    assert ((found.low <= found.auroc) & (found.auroc <= found.high)).all()
    assert found.auroc[38] == found.high[38] == 1 and 0.85 < found.low[38] < 0.98
    assert found.low[39] == found.auroc[39] == 0 and found.high[39] == pytest.approx(1 - found.low[38])
    a, b = x[is_a, 6], x[~is_a, 6]
    placements = (a[:, None] > b).astype(float) + 0.5 * (a[:, None] == b)
    variance = placements.mean(axis=1).var(ddof=1) / N_A + placements.mean(axis=0).var(ddof=1) / N_B
    auroc = placements.mean()
    odds = np.log(auroc / (1 - auroc)) + np.array([-1, 1]) * 1.959964 * np.sqrt(variance) / (auroc * (1 - auroc))
    np.testing.assert_allclose([found.low[6], found.high[6]], 1 / (1 + np.exp(-odds)), rtol=1e-6)


def test_intervals_hold_the_true_value_as_often_as_they_say() -> None:
    random = np.random.default_rng(2)
    true = 0.7602499389065233  # P(N(1, 1) > N(0, 1))
    held = 0
    for _ in range(400):
        scores = np.r_[random.normal(1, 1, 40), random.normal(0, 1, 60)]
        found = separate_scores(scores, np.arange(100) < 40)
        held += bool(found.low[0] <= true <= found.high[0])
    assert 0.92 <= held / 400 <= 0.98


def test_matching_compares_within_strata_alone(x: np.ndarray, is_a: np.ndarray) -> None:
    stratum = np.arange(N_A + N_B) % 4
    found = separate_within(sparse.csc_array(x), is_a, stratum)
    assert found is not None
    for column in (4, 6, 20):
        wins = [
            (value > other) + 0.5 * (value == other)
            for row, value in enumerate(x[:, column])
            for other_row, other in enumerate(x[:, column])
            if is_a[row] and not is_a[other_row] and stratum[row] == stratum[other_row]
        ]
        assert found[column] == pytest.approx(np.mean(wins))
    assert separate_within(sparse.csc_array(x), is_a, is_a.astype(int)) is None


def test_a_score_that_only_says_the_stratum_tells_nothing_within_it() -> None:
    length = np.repeat([1.0, 2.0, 3.0], 20)
    is_a = np.resize([True, True, True, False], 60) & (length > 1) | (np.arange(60) % 7 == 0)
    within = separate_within(sparse.csc_array(length[:, None]), is_a, length.astype(int))
    assert within is not None and within[0] == 0.5 < separate_scores(length, is_a).auroc[0]
