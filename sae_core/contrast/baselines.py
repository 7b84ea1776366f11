"""What else tells two sides of texts apart: words, length, raw activations; and all features together."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64
from scipy import sparse
from scipy.stats import false_discovery_control
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MaxAbsScaler, StandardScaler

from sae_core.contrast.figures import compare_rates
from sae_core.contrast.ranks import separate, separate_scores

LEAST_TEXTS = 3
"""Words and features that fewer texts have are not tested."""
MOST_FITTED = 4_000
"""Texts that a classifier is fitted on; of more, every so many-th is taken."""
SIGNIFICANT = 0.05
"""What has a smaller q value counts as different."""
_WORD = r"(?u)\b\w+(?:['’]\w+)*"
_STRENGTHS = (0.01, 0.1, 1.0, 10.0)
_FOLDS = 5


@dataclass(frozen=True)
class Word:
    """How well the count of one word tells the sides apart, on the texts that choose and on those held out."""

    word: str
    auroc: float
    interval: tuple[float, float]
    q: float
    rate_a: float
    rate_b: float
    test_auroc: float | None


def compare_words(
    texts: Sequence[str],
    is_a: Bool[np.ndarray, " text"],
    held_out: Bool[np.ndarray, " text"],
    *,
    top: int = 50,
) -> tuple[list[Word], int, int]:
    """Return the words that tell the sides apart best, `top` of each side, how many were tested, and how many
    differ with q below 0.05.

    Words are runs of letters and digits, in lower case, with the apostrophes inside them. Those are tested that at
    least `LEAST_TEXTS` of the texts that choose have.
    """
    try:
        counter = CountVectorizer(token_pattern=_WORD, min_df=LEAST_TEXTS)
        counter.fit([text for text, out in zip(texts, held_out, strict=True) if not out])
    except ValueError:  # no word is in so many texts
        return [], 0, 0
    counts = sparse.csr_array(counter.transform(texts), dtype=np.float64)
    chosen = separate(sparse.csc_array(counts[~held_out]), is_a[~held_out])
    rates = compare_rates(chosen.active_a, chosen.active_b, chosen.n_a, chosen.n_b)
    q = false_discovery_control(chosen.p)
    words = counter.get_feature_names_out()
    best = [
        column
        for sign in (1, -1)
        for column in np.argsort(-sign * (chosen.auroc - 0.5), kind="stable")[:top].tolist()
        if sign * (chosen.auroc[column] - 0.5) > 0
    ]
    test = separate(sparse.csc_array(counts[held_out][:, best]), is_a[held_out]).auroc if held_out.any() else None
    found = [
        Word(
            word=str(words[column]),
            auroc=float(chosen.auroc[column]),
            interval=(float(chosen.low[column]), float(chosen.high[column])),
            q=float(q[column]),
            rate_a=float(rates.a[column]),
            rate_b=float(rates.b[column]),
            test_auroc=None if test is None else float(test[place]),
        )
        for place, column in enumerate(best)
    ]
    ranked = sorted(found, key=lambda word: (word.q, -abs(word.auroc - 0.5)))
    return ranked, len(words), int((q < SIGNIFICANT).sum())


@dataclass(frozen=True)
class Baseline:
    """How well something tells the held-out texts of the sides apart, after it was fitted on the others."""

    name: str
    auroc: float
    interval: tuple[float, float]


def compare_classifiers(
    texts: Sequence[str],
    features: sparse.csr_array,
    residual: Mapping[str, Float32[np.ndarray, "text d_in"]],
    lengths: Int64[np.ndarray, " text"],
    best_feature: int,
    is_a: Bool[np.ndarray, " text"],
    held_out: Bool[np.ndarray, " text"],
) -> list[Baseline]:
    """Fit each classifier on the texts that choose, and return their AUROCs on those held out, the best first.

    Logistic regressions on pooled features (`features`), on a bag of words (`words`) and on mean activations at the
    hook (`activations`) choose their penalty by five-fold cross-validation; `length` and the feature that was ranked
    first (`feature`) need no fit, only their direction.
    """
    fitted = np.flatnonzero(~held_out)
    fitted = fitted[:: max(1, -(-len(fitted) // MOST_FITTED))]
    found = []
    for name, scores in _scores(texts, features, residual, lengths, best_feature, is_a, fitted):
        own = separate_scores(scores[held_out], is_a[held_out])
        found.append(Baseline(name, float(own.auroc[0]), (float(own.low[0]), float(own.high[0]))))
    return sorted(found, key=lambda baseline: -baseline.auroc)


def _scores(
    texts: Sequence[str],
    features: sparse.csr_array,
    residual: Mapping[str, Float32[np.ndarray, "text d_in"]],
    lengths: Int64[np.ndarray, " text"],
    best_feature: int,
    is_a: Bool[np.ndarray, " text"],
    fitted: Int64[np.ndarray, " fitted"],
) -> Iterator[tuple[str, Float64[np.ndarray, " text"]]]:
    for name, values in (
        ("feature", features[:, [best_feature]].toarray()[:, 0].astype(np.float64)),
        ("length", lengths.astype(np.float64)),
    ):
        rises = separate_scores(values[fitted], is_a[fitted]).auroc[0] >= 0.5
        yield name, values if rises else -values
    counts = CountVectorizer(token_pattern=_WORD)
    try:
        words = counts.fit([texts[row] for row in fitted]).transform(texts)
        yield "words", _fit(make_pipeline(TfidfTransformer(sublinear_tf=True), _logistic()), words, is_a, fitted)
    except ValueError:  # texts without words
        yield "words", np.zeros(len(texts))
    yield "features", _fit(make_pipeline(MaxAbsScaler(), _logistic()), sparse.csr_matrix(features), is_a, fitted)
    yield "activations", _fit(make_pipeline(StandardScaler(), _logistic()), residual["mean"], is_a, fitted)


def _logistic() -> GridSearchCV:
    logistic = LogisticRegression(solver="liblinear", max_iter=1000)
    return GridSearchCV(logistic, {"C": _STRENGTHS}, cv=_FOLDS, scoring="roc_auc")


def _fit(
    classifier: Pipeline, x: Any, is_a: Bool[np.ndarray, " text"], fitted: Int64[np.ndarray, " fitted"]
) -> Float64[np.ndarray, " text"]:
    """Return the scores of all texts by a classifier that was fitted on some."""
    scores: Float64[np.ndarray, " text"] = classifier.fit(x[fitted], is_a[fitted]).decision_function(x)
    return scores
