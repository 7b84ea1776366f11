"""Fits of the candidates for a monitor: each gives the monitor, or a score of texts if it does not run on a model."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Float, Int64
from scipy import stats
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, from_numpy

from sae_core.errors import MonitorError
from sae_core.monitoring.examples import Examples, Score, Source
from sae_core.monitoring.measures import auroc_and_variance
from sae_core.monitoring.monitor import (
    Detector,
    DirectionDetector,
    FeatureDetector,
    Monitor,
    ProbeDetector,
)
from sae_core.monitoring.scoring import residual_pool
from sae_core.readings import Pool, Reading, Tokens, count_tokens, pool_features
from sae_core.saes import TopK

Scores = Float[np.ndarray, " texts"]
Fit = Callable[[], Monitor | Score]

FEATURES = (10, 50)
"""Numbers of features whose weights are learned together."""
_FOLDS = 3
_REGULARISATION = np.logspace(-5, 1, 7)
_REGULARISATION_OF_WORDS = np.logspace(-2, 4, 7)
_WORD = r"(?u)\b\w+\b"
_BLOCK = 512
"""Features ranked at a time."""


def candidate_fits(
    train: Sequence[Examples],
    source: Source,
    tokens: Tokens,
    pool: Pool,
    given: Sequence[int] | None,
    direction: Float[Tensor, " d_in"] | None,
) -> Iterator[tuple[str, Fit]]:
    """Yield the name of each candidate and its fit, which is made when it is called; `train` has the positive first."""
    counts = [len(side) for side in train]
    labels = np.repeat([1, 0], counts)

    def monitor(detector: Detector, of_pool: Pool) -> Monitor:
        return Monitor(
            "candidate",
            source.hook,
            detector,
            tokens,
            of_pool,
            threshold=0.0,
            model_name=source.model_name,
            model_sha256=source.model_sha256,
            special_token_ids=source.special_token_ids,
            prepend_bos=source.sae.prepend_bos,
        )

    def residual(of_pool: Pool) -> Float[np.ndarray, "texts d_in"]:
        own = residual_pool(tokens, of_pool)
        return np.concatenate([side.reading.residual[own] for side in train]).astype(np.float64)

    def probe(of_pool: Pool) -> Monitor:
        weights, bias = fit_logistic(residual(of_pool), labels)
        return monitor(ProbeDetector(weights, bias), of_pool)

    def diffmean() -> Monitor:
        means = residual("mean")
        positive, benign = means[: counts[0]].mean(axis=0), means[counts[0] :].mean(axis=0)
        direction = from_numpy((positive - benign).astype(np.float32))
        return monitor(DirectionDetector(direction), "mean")

    pooled = np.concatenate([pool_features(side.reading, pool, tokens).toarray() for side in train])
    boundary = boundary_of(train[1].reading) if isinstance(source.sae, TopK) else None

    def detector(features: Sequence[int], weights: Float[np.ndarray, " k"] | None, bias: float) -> Monitor:
        made = FeatureDetector.of(
            source.sae,
            features,
            weights,
            bias,
            boundary=boundary,
            name=source.sae_name,
            sha256=source.sae_sha256,
        )
        return monitor(made, pool)

    def single() -> Monitor:
        return detector([int(feature_aurocs(pooled, labels).argmax())], None, 0.0)

    def weighted(features: Sequence[int]) -> Monitor:
        weights, bias = fit_logistic(pooled[:, features], labels)
        return detector(features, weights, bias)

    def several(k: int) -> Monitor:
        return weighted(most_different(pooled, labels, k).tolist())

    yield "feature", single
    for k in FEATURES:
        if k <= source.sae.d_sae:
            yield f"features-{k}", lambda k=k: several(k)  # type: ignore[misc]
    if given is not None:
        yield "features-given", lambda: weighted(list(given))
    if tokens == "last":
        yield "probe-last", lambda: probe("mean")
    else:
        yield "probe-mean", lambda: probe("mean")
        yield "probe-max", lambda: probe("max")
    yield "diffmean", diffmean
    if direction is not None:
        yield "direction-given", lambda: monitor(DirectionDetector(direction), pool)
    yield "words", lambda: _words(train, labels)
    yield "length", lambda: _length(train, tokens)


def feature_aurocs(pooled: Float[np.ndarray, "texts feature"], labels: Int64[np.ndarray, " texts"]) -> Scores:
    """Return the AUROC of every feature's pooled activation, ties counted half."""
    positive, benign = int(labels.sum()), int((1 - labels).sum())
    found = []
    for start in range(0, pooled.shape[1], _BLOCK):
        ranks = stats.rankdata(pooled[:, start : start + _BLOCK], axis=0)
        found.append((ranks[labels == 1].sum(axis=0) - positive * (positive + 1) / 2) / (positive * benign))
    return np.concatenate(found)


def most_different(
    pooled: Float[np.ndarray, "texts feature"], labels: Int64[np.ndarray, " texts"], k: int
) -> Int64[np.ndarray, " k"]:
    """Return the k features whose class means differ most, as in k-sparse probing (Gurnee et al. 2023)."""
    difference = np.abs(pooled[labels == 1].mean(axis=0) - pooled[labels == 0].mean(axis=0))
    return np.sort(np.argsort(-difference, kind="stable")[:k])


def fit_logistic(
    x: Float[np.ndarray, "texts column"], labels: Int64[np.ndarray, " texts"]
) -> tuple[Float[np.ndarray, " column"], float]:
    """Return weights and bias of a logistic regression (L2, its strength by cross-validation) of unscaled columns."""
    fitted = _grid(make_pipeline(StandardScaler(), _logistic()), _REGULARISATION).fit(x, labels).best_estimator_
    scaler, regression = fitted[0], fitted[-1]
    weights = regression.coef_[0] / scaler.scale_
    return weights, float(regression.intercept_[0] - weights @ scaler.mean_)


def _logistic() -> LogisticRegression:
    return LogisticRegression(max_iter=1000)


def _grid(pipeline: Pipeline, strengths: Float[np.ndarray, " strength"]) -> GridSearchCV:
    folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=0)
    return GridSearchCV(pipeline, {"logisticregression__C": strengths}, scoring="roc_auc", cv=folds)


def _words(train: Sequence[Examples], labels: Int64[np.ndarray, " texts"]) -> Score:
    texts = [text for side in train for text in side.texts]
    vectors = TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True, token_pattern=_WORD)
    fitted = _grid(make_pipeline(vectors, _logistic()), _REGULARISATION_OF_WORDS).fit(texts, labels)
    return lambda side: np.asarray(fitted.decision_function(side.texts))


def _length(train: Sequence[Examples], tokens: Tokens) -> Score:
    """Return a score of how long a text is, or how short, whichever positive texts are."""
    # all written tokens: of the last token alone there is always one
    counted: Tokens = "all" if tokens == "last" else tokens
    lengths = [count_tokens(side.reading, counted).astype(np.float64) for side in train]
    sign = 1.0 if auroc_and_variance(*lengths)[0] >= 0.5 else -1.0
    return lambda side: sign * count_tokens(side.reading, counted)


def boundary_of(reading: Reading) -> float:
    """Return the mean over tokens of the smallest activation that is not 0: a TopK's threshold, as BatchTopK learns it.

    Raises:
        MonitorError: no token has an active feature.
    """
    sizes = np.diff(reading.features.indptr)
    if not sizes.any():
        raise MonitorError("No feature is active on these texts, so a TopK's boundary is unknown. Give other texts.")
    return float(np.minimum.reduceat(reading.features.data, reading.features.indptr[:-1][sizes > 0]).mean())
