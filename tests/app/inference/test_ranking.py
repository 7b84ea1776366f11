"""Percentiles and ranks."""

import random
import tracemalloc
from bisect import bisect_left

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.inference.ranking import ActivationDistributions, FeatureIds, Values, ranked
from app.queries.features import Histogram


def histogram(values: list[float], bins: int = 50) -> Histogram:
    maximum = max(values)
    counts = [0] * bins
    for value in values:
        counts[min(int(value / maximum * bins), bins - 1)] += 1
    return Histogram(tuple(maximum * place / bins for place in range(bins + 1)), tuple(counts))


def even(count: int, maximum: float = 10.0) -> Histogram:
    """50 bins of `count` activations."""
    return Histogram(tuple(maximum * place / 50 for place in range(51)), (count,) * 50)


def distributions(histograms: dict[int, Histogram], tokens: int = 10_000) -> ActivationDistributions:
    made = ActivationDistributions(100, tokens)
    made.add(list(histograms), histograms)
    return made


def percentile(known: ActivationDistributions, feature: int, activation: float) -> float:
    return float(known.percentiles(np.array([feature]), np.array([activation]))[0])


def by_all_edges(known: ActivationDistributions, features: FeatureIds, activations: Values) -> Values:
    """Percentiles as they are defined, with the 51 edges of every entry."""
    edges = known._maximum[features, None] * np.arange(51) / 50
    upper = (edges < activations[:, None]).sum(axis=1).clip(1, 50)
    entry = np.arange(len(features))
    low, high = edges[entry, upper - 1], edges[entry, upper]
    below, upto = known._cumulated[features, upper - 1], known._cumulated[features, upper]
    total = known._cumulated[features, -1]
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = 100 * (below + (activations - low) / (high - low) * (upto - below)) / total
    return np.where((total == 0) | (activations >= edges[:, -1]), 100.0, shares)


@given(maximum=st.floats(2.0**-149, 2.0**100, width=32), seed=st.integers(0, 2**32 - 1))
def test_percentiles_equal_those_by_all_edges_to_the_bit(maximum: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    made = even(0, maximum)
    known = distributions({3: Histogram(made.edges, tuple(generator.integers(0, 9, 50).tolist()))})
    edges = np.array(made.edges)
    near = np.concatenate([edges, np.nextafter(edges, 0), np.nextafter(edges, np.inf)])
    activations = np.concatenate([near, near.astype(np.float32), generator.uniform(0, 2 * maximum, 200)])
    activations = activations[activations > 0].astype(float)
    features = np.full(len(activations), 3)
    found = known.percentiles(features, activations)
    assert found.tobytes() == by_all_edges(known, features, activations).tobytes()


def test_percentile_is_the_share_of_weaker_activations() -> None:
    generator = random.Random(0)
    values = [generator.lognormvariate(0, 0.5) for _ in range(5_000)]
    known = distributions({7: histogram(values)})
    for value in values[:200]:
        true = 100 * sum(other < value for other in values) / len(values)
        assert percentile(known, 7, value) == pytest.approx(true, abs=2)


def test_percentile_is_interpolated_within_its_bin_edges_included() -> None:
    generator = random.Random(1)
    made = Histogram(even(0).edges, tuple(generator.randrange(9) for _ in range(50)))
    known = distributions({3: made})
    for value in [*made.edges[1:-1], *(generator.uniform(0, 10) for _ in range(200))]:
        upper = max(1, bisect_left(made.edges, value))
        low, high = made.edges[upper - 1], made.edges[upper]
        weaker = sum(made.counts[: upper - 1]) + made.counts[upper - 1] * (value - low) / (high - low)
        assert percentile(known, 3, value) == pytest.approx(100 * weaker / sum(made.counts), abs=1e-9)
    assert percentile(known, 3, 10.0) == percentile(known, 3, 40.0) == 100


def test_a_feature_never_active_in_the_corpus_is_at_100() -> None:
    known = distributions({1: Histogram((0.0,) * 51, (0,) * 50)})
    known.add([2], {})
    assert percentile(known, 1, 0.1) == percentile(known, 2, 0.1) == 100


def test_only_features_that_were_not_added_are_unknown() -> None:
    known = distributions({4: even(1)})
    known.add([5], {})
    assert known.unknown(np.array([3, 4, 5, 6])) == [3, 6]


def test_a_sparse_feature_ranks_above_dense_ones_of_higher_percentile() -> None:
    dense = range(20)  # density 0.5, 95th percentile
    known = distributions({**{number: even(100) for number in dense}, 99: even(1)})  # 99: density 0.005
    features, maxima = np.array([*dense, 99]), np.array([9.5] * 20 + [9.0])
    assert ranked(features, maxima, known, 100)[0] == 99
    assert percentile(known, 0, 9.5) > percentile(known, 99, 9.0)  # a plain order by percentile would have it last


def test_a_dense_feature_above_its_maximum_ranks_first() -> None:
    known = distributions({1: even(100), 2: even(1)})
    assert ranked(np.array([1, 2]), np.array([11.0, 9.0]), known, 100).tolist() == [1, 2]


def test_equal_scores_are_ordered_by_activation_then_by_number() -> None:
    known = distributions({number: even(1) for number in (1, 2, 3)})
    assert ranked(np.array([1, 2, 3]), np.array([11.0, 12.0, 11.0]), known, 10).tolist() == [2, 1, 3]


def test_without_an_index_features_rank_by_activation() -> None:
    assert ranked(np.array([1, 2]), np.array([1.0, 3.0]), None, 10).tolist() == [2, 1]


def test_a_long_text_on_a_dense_sae_is_ranked_in_bounded_memory() -> None:
    features, positions = 1000, 300
    generator = np.random.default_rng(0)
    known = ActivationDistributions(features, 10_000)
    shapes = generator.integers(0, 9, (features, 50))
    known.add(range(features), {number: Histogram(even(0).edges, tuple(shapes[number])) for number in range(features)})
    feature = np.repeat(np.arange(features), positions)
    activation = generator.uniform(0, 12, len(feature))

    tracemalloc.start()
    known.percentiles(feature, activation)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    whole = 8 * 51 * len(feature)  # the edges of all entries at once: 122 MB
    assert peak < whole / 3
