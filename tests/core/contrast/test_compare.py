"""Planted differences are found, explained and recomputed by scipy and scikit-learn."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse
from scipy.stats import binomtest, false_discovery_control, mannwhitneyu
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.metrics import roc_auc_score

from sae_core.contrast import Contrast, compare_texts, separate
from sae_core.readings import pool_features
from tests.core.contrast.synthetic import DEAD, FIRST, LENGTH, RARE, REAL, TOKEN, Made, make_texts


@pytest.fixture(scope="module")
def made() -> Made:
    return make_texts()


@pytest.fixture(scope="module")
def found(made: Made) -> Contrast:
    return compare_texts(made.reading, made.texts, made.is_a, made.held_out, made.token_bytes)


def row(found: Contrast, feature: int) -> int:
    return int(np.flatnonzero(found.features == feature)[0])


def test_every_figure_is_what_libraries_say(made: Made, found: Contrast) -> None:
    pooled = pool_features(made.reading, "max").toarray().astype(np.float64)
    choosing, held_out = ~made.held_out, made.held_out
    assert RARE not in found.features and DEAD not in found.features
    expected_p = []
    for place, feature in enumerate(found.features.tolist()):
        values = pooled[choosing, feature]
        a, b = values[made.is_a[choosing]], values[~made.is_a[choosing]]
        assert found.chosen.auroc[place] == pytest.approx(roc_auc_score(made.is_a[choosing], values))
        assert found.test is not None
        assert found.test.auroc[place] == pytest.approx(roc_auc_score(made.is_a[held_out], pooled[held_out, feature]))
        expected_p.append(
            found.chosen.p[place] if found.chosen.exact[place] else mannwhitneyu(a, b, method="asymptotic").pvalue
        )
        assert found.rates.a[place] == (a > 0).mean() and found.rates.b[place] == (b > 0).mean()
        spread = np.sqrt(((len(a) - 1) * a.var(ddof=1) + (len(b) - 1) * b.var(ddof=1)) / (len(a) + len(b) - 2))
        assert found.d[place] == pytest.approx((a.mean() - b.mean()) / spread)
        low_a, _ = binomtest(int((a > 0).sum()), len(a)).proportion_ci(method="wilson")
        _, high_b = binomtest(int((b > 0).sum()), len(b)).proportion_ci(method="wilson")
        low = found.rates.difference[place] - np.hypot((a > 0).mean() - low_a, high_b - (b > 0).mean())
        assert found.rates.low[place] == pytest.approx(low)
        assert found.rates.high[place] >= found.rates.difference[place] >= found.rates.low[place]
    np.testing.assert_allclose(found.chosen.p, expected_p, rtol=1e-9)
    np.testing.assert_allclose(found.q, false_discovery_control(expected_p), rtol=1e-9)
    differing = set(found.features[found.q < 0.05].tolist())
    assert differing >= {REAL, TOKEN, LENGTH, FIRST}


def test_what_only_looks_like_a_difference_is_said(made: Made, found: Contrast) -> None:
    assert found.length.auroc == pytest.approx(
        roc_auc_score(made.is_a[~made.held_out], made.reading.lengths[~made.held_out])
    )
    assert found.length.auroc > 0.6 and found.length.p < 1e-3 and 0.3 < found.length.overlap < 0.9
    assert found.matched is not None
    by_feature = {feature: place for place, feature in enumerate(found.features.tolist())}
    assert found.chosen.auroc[by_feature[LENGTH]] > 0.6
    left = abs(found.matched - 0.5) / found.strength()
    assert left[by_feature[LENGTH]] < 0.5 < left[by_feature[REAL]], "it goes away among texts of about one length"
    assert found.matched[by_feature[REAL]] > 0.75
    habits = found.habits
    assert habits.token_share[by_feature[TOKEN]] == pytest.approx(1)
    assert habits.token[by_feature[TOKEN]] == 1, "the commonest of two spellings"
    assert habits.token_share[by_feature[REAL]] < 0.5
    assert habits.first_share[by_feature[FIRST]] == 1 and habits.last_share[by_feature[FIRST]] == 0
    mass = made.reading.features[:, [REAL]].toarray()[:, 0].astype(np.float64)
    spelled = np.where(made.reading.token_ids == 2, 1, made.reading.token_ids)
    of_spelling = np.bincount(spelled, weights=mass)
    assert habits.token_share[by_feature[REAL]] == pytest.approx(of_spelling.max() / mass.sum())


def test_words_and_classifiers_stand_beside(made: Made, found: Contrast) -> None:
    words = {word.word: word for word in found.words}
    counts = CountVectorizer(token_pattern=r"(?u)\b\w+\b").fit(made.texts)
    she = counts.transform(made.texts).toarray()[:, counts.vocabulary_["she"]]
    choosing = ~made.held_out
    assert words["she"].auroc == pytest.approx(roc_auc_score(made.is_a[choosing], she[choosing]))
    assert words["she"].test_auroc == pytest.approx(roc_auc_score(made.is_a[~choosing], she[~choosing]))
    assert words["she"].rate_a == (she[choosing & made.is_a] > 0).mean() and words["she"].q < 1e-4
    assert {baseline.name for baseline in found.classifiers} == {
        "feature",
        "features",
        "words",
        "length",
        "activations",
    }
    aurocs = {baseline.name: baseline.auroc for baseline in found.classifiers}
    assert list(aurocs.values()) == sorted(aurocs.values(), reverse=True)
    assert aurocs["features"] > 0.9 and abs(aurocs["activations"] - 0.5) < 0.3
    assert all(low <= baseline.auroc <= high for baseline in found.classifiers for low, high in [baseline.interval])


def test_examples_are_texts_of_each_side_around_the_peak(made: Made, found: Contrast) -> None:
    examples = found.examples[REAL]
    assert [example["side"] for example in examples].count("a") == 4
    strongest = examples[0]
    values = pool_features(made.reading, "max").toarray()[:, REAL]
    assert strongest["text"] == np.argmax(np.where(made.is_a, values, 0))
    assert strongest["values"][strongest["peak"]] == pytest.approx(values[strongest["text"]], abs=1e-4)
    begin = made.reading.offsets[strongest["text"]] + strongest["start"]
    assert strongest["tokens"] == made.reading.token_ids[begin : begin + len(strongest["tokens"])].tolist()


def test_without_enough_held_out_texts_all_choose(made: Made) -> None:
    few = made.held_out & (np.arange(len(made.is_a)) < 60)
    found = compare_texts(made.reading, made.texts, made.is_a, few, made.token_bytes)
    assert found.test is None and not found.classifiers and found.chosen.n_a + found.chosen.n_b == len(made.is_a)
    assert all(word.test_auroc is None for word in found.words)
    silent = replace(made.reading, features=sparse.csr_array(made.reading.features.shape, dtype=np.float32))
    nothing = compare_texts(silent, ["…"] * len(made.is_a), made.is_a, made.held_out, made.token_bytes)
    assert not len(nothing.features) and not nothing.words


def test_no_difference_is_found_where_there_is_none(made: Made) -> None:
    shuffled = np.random.default_rng(5).permutation(made.is_a)
    x = sparse.csc_array(pool_features(made.reading, "max")[:, 6:])
    assert (false_discovery_control(separate(x, shuffled).p) > 0.05).all()
