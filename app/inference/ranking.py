"""Percentiles of activations within their own feature's distribution, and the ranking by them.

**Percentile.** Raw activations cannot be compared between features: each has a scale of its own. So an activation is
placed within the feature's own distribution of non-zero activations over the index, taken from the stored histogram
(equal bins over (0, max]) and interpolated within its bin. 100 means stronger than anything in the corpus.

**Rank.** A prompt's percentile is that of its strongest token, and the strongest of many draws is high by chance: dense
features, which fire on every other token, have high maxima on any prompt and would fill the list. The largest of m
independent draws from the feature's distribution F stays below v with probability F(v)^m, and a feature of density p is
expected to fire on m = n p of n counted tokens. So features are ranked by (percentile / 100)^max(1, n p), then by their
maximum. A sparse feature keeps its percentile as its score; a dense one must be stronger than it usually is at its
strongest in a text this long. On request the maximum alone ranks, or rarity: the feature that fires least often first.
"""

from collections.abc import Collection, Mapping

import numpy as np
from jaxtyping import Float64, Int64

from app.queries.features import Histogram
from app.services.inference_messages import RankBy
from sae_core.statistics.spec import HISTOGRAM_BINS

FeatureIds = Int64[np.ndarray, " entry"]
Values = Float64[np.ndarray, " entry"]


class ActivationDistributions:
    """Distributions of an index's nonzero activations per feature: cumulative histogram counts, added on demand.

    Args:
        d_sae: features of the SAE.
        tokens: counted tokens of the index.
    """

    def __init__(self, d_sae: int, tokens: int) -> None:
        self.tokens = tokens
        self._known = np.zeros(d_sae, bool)
        self._maximum = np.zeros(d_sae)
        self._cumulated = np.zeros((d_sae, HISTOGRAM_BINS + 1), np.int64)

    def unknown(self, features: FeatureIds) -> list[int]:
        """Return those of these features whose histograms must still be added."""
        missing: list[int] = features[~self._known[features]].tolist()
        return missing

    def add(self, requested: Collection[int], found: Mapping[int, Histogram]) -> None:
        """Add histograms; a feature that was requested but not found counts as never active."""
        self._known[list(requested)] = True
        for number, histogram in found.items():
            self._maximum[number] = histogram.edges[-1]
            np.cumsum(histogram.counts, out=self._cumulated[number, 1:])

    def maximum(self, features: FeatureIds) -> Values:
        """Return the maximum activation of each of these features in the index; 0 for one that was never active."""
        maximum: Values = self._maximum[features]
        return maximum

    def percentiles(self, features: FeatureIds, activations: Values) -> Values:
        """Return the share of the feature's activations below each entry, 0 to 100; 100 for a feature never active."""
        maximum = self._maximum[features]
        upper = _upper_edge(maximum, activations)
        low, high = _edge(maximum, upper - 1), _edge(maximum, upper)
        below, upto = self._cumulated[features, upper - 1], self._cumulated[features, upper]
        total = self._cumulated[features, -1]
        with np.errstate(divide="ignore", invalid="ignore"):  # for features that were never active
            inside = (activations - low) / (high - low) * (upto - below)
            shares = 100 * (below + inside) / total
        return np.where((total == 0) | (activations >= _edge(maximum, HISTOGRAM_BINS)), 100.0, shares)

    def counts(self, features: FeatureIds) -> FeatureIds:
        """Return how many tokens of the index each of these features fires on."""
        counts: FeatureIds = self._cumulated[features, -1]
        return counts

    def scores(self, features: FeatureIds, maxima: Values, counted: int) -> Values:
        """Return the ranking scores in a text of `counted` tokens, 0 to 1: see the module's docstring."""
        expected = counted * self._cumulated[features, -1] / max(self.tokens, 1)
        score: Values = (self.percentiles(features, maxima) / 100) ** np.maximum(1.0, expected)
        return score


def _edge(maximum: Values, place: FeatureIds | int) -> Values:
    """Return the edges of these places, 0 to `HISTOGRAM_BINS`, of equal bins over (0, maximum]."""
    edge: Values = maximum * place / HISTOGRAM_BINS
    return edge


def _upper_edge(maximum: Values, activations: Values) -> FeatureIds:
    """Return the place of the upper edge of each entry's bin, 1 to `HISTOGRAM_BINS`."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        place = np.ceil(activations / maximum * HISTOGRAM_BINS)
    upper: FeatureIds = np.nan_to_num(place, nan=1.0).clip(1, HISTOGRAM_BINS).astype(np.int64)
    # Both quotient and edges are rounded: next to an edge the quotient may name the neighbour.
    upper += _edge(maximum, upper) < activations
    upper -= _edge(maximum, upper - 1) >= activations
    return upper.clip(1, HISTOGRAM_BINS)


def ranked(
    features: FeatureIds,
    maxima: Values,
    distributions: ActivationDistributions | None,
    counted: int,
    by: RankBy = "percentile",
) -> FeatureIds:
    """Return the features, best first; without an index only their maxima decide.

    Args:
        features: distinct numbers.
        maxima: maximum activation of each in the text.
        distributions: those of the index, with these features added; None without an index.
        counted: number of counted tokens of the text.
        by: percentile, corrected as the module's docstring says; the maximum alone; or rarity in the index.
    """
    score = np.zeros(len(features))
    if distributions is not None and by == "percentile":
        score = distributions.scores(features, maxima, counted)
    elif distributions is not None and by == "rarity":
        score = -distributions.counts(features).astype(np.float64)
    return features[np.lexsort((features, -maxima, -score))]
