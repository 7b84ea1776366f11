"""Percentiles and ranks; tests/web/api/test_probe.py has the whole way from text to answer."""

import random

import pytest

from app.errors import Unprocessable
from app.queries.features import Histogram
from app.services.inference import FiringFeature
from app.services.probe import Distribution, ScoredFeature, check_text


def histogram(values: list[float], bins: int = 50) -> Histogram:
    maximum = max(values)
    counts = [0] * bins
    for value in values:
        counts[min(int(value / maximum * bins), bins - 1)] += 1
    return Histogram(tuple(maximum * place / bins for place in range(bins + 1)), tuple(counts))


def test_percentile_is_the_share_of_weaker_activations() -> None:
    generator = random.Random(0)
    values = [generator.lognormvariate(0, 0.5) for _ in range(5_000)]
    distribution = Distribution(histogram(values))
    for value in values[:200]:
        true = 100 * sum(other < value for other in values) / len(values)
        assert distribution.percentile(value) == pytest.approx(true, abs=2)


def test_percentile_goes_from_0_to_100() -> None:
    distribution = Distribution(Histogram((0.0, 1.0, 2.0, 3.0, 4.0), (0, 2, 0, 2)))
    assert distribution.percentile(1e-9) == pytest.approx(0)
    assert distribution.percentile(1.0) == pytest.approx(0)
    assert distribution.percentile(1.5) == pytest.approx(25)
    assert distribution.percentile(2.0) == distribution.percentile(3.0) == pytest.approx(50)
    assert distribution.percentile(4.0) == distribution.percentile(40.0) == 100


def test_a_feature_never_active_in_the_corpus_is_at_100() -> None:
    assert Distribution(Histogram((0.0,) * 51, (0,) * 50)).percentile(0.1) == 100


def scored(index: int, values: list[float], *, counts: tuple[int, ...], tokens: int = 10_000) -> ScoredFeature:
    edges = tuple(float(place) for place in range(len(counts) + 1))
    return ScoredFeature(
        FiringFeature(index=index, positions=list(range(len(values))), values=values),
        label=None,
        distribution=Distribution(Histogram(edges, counts)),
        indexed_tokens=tokens,
    )


def test_dense_features_do_not_drown_a_sparse_one() -> None:
    even = (500,) * 10
    dense = [scored(index, [9.5] * 50, counts=even) for index in range(20)]  # density 0.5, 95th percentile
    sparse = scored(99, [9.0], counts=(1,) * 10)  # density 0.001, 90th percentile
    ranked = sorted([*dense, sparse], key=lambda feature: feature.rank(100), reverse=True)
    assert ranked[0] is sparse
    assert dense[0].percentile(9.5) > sparse.percentile(9.0)  # a plain order by percentile would have it last


def test_a_dense_feature_stronger_than_ever_is_first() -> None:
    dense = scored(1, [11.0], counts=(500,) * 10)
    sparse = scored(2, [9.0], counts=(1,) * 10)
    assert dense.rank(100) > sparse.rank(100)


def test_equal_percentiles_are_ordered_by_activation() -> None:
    assert scored(1, [12.0], counts=(1,) * 10).rank(10) > scored(2, [11.0], counts=(1,) * 10).rank(10)


def test_without_an_index_the_activation_decides() -> None:
    feature = FiringFeature(index=1, positions=[0], values=[3.0])
    strong = ScoredFeature(feature, label=None, distribution=None, indexed_tokens=0)
    assert strong.percentile(3.0) is None
    assert strong.rank(10) == (0.0, 3.0)


def test_a_text_must_hold_characters() -> None:
    with pytest.raises(Unprocessable, match="empty"):
        check_text("")
    with pytest.raises(Unprocessable, match=r"U\+D83E\) at character 2"):
        check_text("ab\ud83e")
    check_text("🧠\0 ")
