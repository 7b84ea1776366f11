"""Features whose activation differs between the two sides of pairs.

The activation of a side is its maximum over tokens, which does not depend on how many tokens either side has. Features
are tested and chosen on one half of the pairs, and their effect sizes are of the other: the strongest of many would
look stronger than they are on the pairs that they were chosen on.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64
from scipy import sparse, stats

from sae_core.auditing.config import MIN_PAIRS
from sae_core.auditing.intervals import Weights, benjamini_hochberg, bootstrap_weights, figure
from sae_core.auditing.results import Difference, ExamplePair, ShadedToken
from sae_core.models import LanguageModel
from sae_core.readings import Reading, pool_features

ONE_TOKEN = 0.9
"""Share of pairs from which a feature is said to be about one token."""


@dataclass(frozen=True)
class Tested:
    """Features that were compared between the sides, on the half that features are chosen on."""

    features: Int64[np.ndarray, " tested"]
    pairs: Int64[np.ndarray, " tested"]
    """Pairs whose sides differ in it."""
    p: Float64[np.ndarray, " tested"]
    q: Float64[np.ndarray, " tested"]
    effect: Float64[np.ndarray, " tested"]
    """Cohen's d of pairs."""


def side_differences(reading: Reading) -> sparse.csc_array:
    """Return first side minus second, float64 `[pair, d_sae]`, of a reading of all first sides and then all second."""
    pooled = pool_features(reading, "max").astype(np.float64)
    pairs = reading.texts // 2
    return sparse.csc_array(pooled[:pairs] - pooled[pairs:])


def test_features(differences: sparse.csc_array, chosen_on: Bool[np.ndarray, " pair"]) -> Tested:
    """Compare every feature whose sides differ in at least `MIN_PAIRS` of the pairs that features are chosen on.

    Wilcoxon's signed-rank test leaves out pairs without a difference; with fewer than six it cannot reach 5 %.
    """
    half = sparse.csc_array(differences[np.flatnonzero(chosen_on)])
    half.eliminate_zeros()
    counts = np.diff(half.indptr)
    features = np.flatnonzero(counts >= MIN_PAIRS)
    columns = [half.data[half.indptr[feature] : half.indptr[feature + 1]] for feature in features]
    p = np.array([stats.wilcoxon(column).pvalue for column in columns], float)
    pairs = half.shape[0]
    mean = np.array([column.sum() / pairs for column in columns], float)
    squares = np.array([(column**2).sum() for column in columns], float)
    deviation = np.sqrt(np.maximum(squares - pairs * mean**2, 0) / max(pairs - 1, 1))
    effect = np.divide(mean, deviation, out=np.zeros_like(mean), where=deviation > 0)
    return Tested(features, counts[features], p, np.array(benjamini_hochberg(p.tolist())), effect)


def choose_features(tested: Tested, *, top: int, q: float) -> list[int]:
    """Return the features under the false discovery rate that have the largest effects, strongest first."""
    shown = np.flatnonzero(tested.q <= q)
    return [
        int(feature) for feature in tested.features[shown[np.argsort(-np.abs(tested.effect[shown]), kind="stable")]]
    ][:top]


def paired_effect(differences: Float[np.ndarray, " pair"], weights: Weights) -> Float64[np.ndarray, " 1+replicate"]:
    """Return Cohen's d of pairs: the mean difference in its standard deviations; NaN where nothing differs."""
    drawn = weights.sum(axis=1)
    mean = weights @ differences / drawn
    variance = (weights @ differences**2 - drawn * mean**2) / np.maximum(drawn - 1, 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        effect: Float64[np.ndarray, " 1+replicate"] = np.where(variance > 1e-12, mean / np.sqrt(variance), np.nan)
    return effect


def describe(
    model: LanguageModel,
    reading: Reading,
    differences: sparse.csc_array,
    tested: Tested,
    chosen_on: Bool[np.ndarray, " pair"],
    keys: Sequence[str],
    *,
    listed: int,
    replicates: int,
    seed: int,
) -> list[Difference]:
    """Return at most `listed` of the tested features: those under 5 % first, the largest effects first.

    Each has the pair as its example that differs most in the direction of the effect.

    Args:
        keys: of the pairs.
    """
    others = np.flatnonzero(~chosen_on)
    weights = bootstrap_weights(len(others), replicates, seed)
    by_feature = sparse.csc_array(reading.features)
    order = np.lexsort((-np.abs(tested.effect), tested.q > 0.05))[:listed]
    found = []
    for place in order:
        feature = int(tested.features[place])
        column = differences[:, [feature]].toarray()[:, 0]
        effect = figure(paired_effect(column[others], weights)) if len(others) else None
        if effect is None:
            continue  # no pair of the other half differs in it, so nothing was tested
        activations = by_feature[:, [feature]].toarray()[:, 0]
        pair = int(np.argmax(column if tested.effect[place] >= 0 else -column))
        found.append(
            Difference(
                feature,
                effect,
                float(tested.effect[place]),
                int(tested.pairs[place]),
                float(tested.p[place]),
                float(tested.q[place]),
                _only_token(model, reading, activations, column),
                _example(model, reading, activations, pair, keys[pair]),
            )
        )
    return found


def _only_token(
    model: LanguageModel,
    reading: Reading,
    activations: Float[np.ndarray, " token"],
    column: Float[np.ndarray, " pair"],
) -> str | None:
    """Return the token on which a feature is strongest in nearly all sides that have more of it."""
    pairs = np.flatnonzero(column)
    texts = np.where(column[pairs] > 0, pairs, pairs + reading.texts // 2)
    starts, ends = reading.offsets[texts], reading.offsets[texts + 1]
    strongest = [start + activations[start:end].argmax() for start, end in zip(starts, ends, strict=True)]
    token, count = Counter(reading.token_ids[strongest].tolist()).most_common(1)[0]
    return model.decode([token]) if count >= ONE_TOKEN * len(pairs) else None


def _example(
    model: LanguageModel, reading: Reading, activations: Float[np.ndarray, " token"], pair: int, key: str
) -> ExamplePair:
    """Return a pair, token by token."""

    def shaded(text: int) -> list[ShadedToken]:
        own = slice(reading.offsets[text], reading.offsets[text + 1])
        pieces = [model.decode([token]) for token in reading.token_ids[own].tolist()]
        return [ShadedToken(piece, value) for piece, value in zip(pieces, activations[own].tolist(), strict=True)]

    return ExamplePair(key, shaded(pair), shaded(pair + reading.texts // 2))
