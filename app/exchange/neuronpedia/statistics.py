"""Rows for the database from an export, with estimates where the export does not state a statistic.

Three are estimated: the number of active tokens, from the heights of the histogram; the mean, from the middles of its
bins; and top tokens, from the examples. `app.web.components.glossary` says so on the pages.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from app.exchange.neuronpedia.spool import Spool, SpooledExample, SpooledFeature, SpooledSequences
from app.queries.examples import MAX_LIMIT
from app.queries.publish import ExampleRow, FeatureStatisticsRow
from sae_core.statistics.spec import BANDS, HISTOGRAM_BINS, RANKED_LISTS, TOP_TOKENS

_MAX_BINS = 1000
_NOT_STATED: dict[str, list[Any]] = {
    statistic.name: []
    for ranked in RANKED_LISTS
    if ranked.name in ("coactive", "topics")
    for statistic in ranked.statistics
}
"""Lists that no export has."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens that the features were counted on."""

    number: int
    stated: bool
    """False where the export does not state the number: it is then estimated from densities and histograms."""


def feature_rows(
    spool: Spool, sequences: SpooledSequences, ids: Sequence[int], tokens: Tokens
) -> Iterator[FeatureStatisticsRow]:
    """Yield a row per feature that the export describes, in order.

    Args:
        spool: the features as they were read.
        sequences: texts of their examples.
        ids: of the tokens of the spool's vocabulary.
        tokens: that the features were counted on.
    """
    known = set(spool.numbers())
    for feature in spool.features():
        yield _feature_row(feature, spool.examples(feature.number), sequences, ids, tokens, known)


def _feature_row(
    feature: SpooledFeature,
    examples: Sequence[SpooledExample],
    sequences: SpooledSequences,
    ids: Sequence[int],
    tokens: Tokens,
    known: AbstractSet[int],
) -> FeatureStatisticsRow:
    maximum = largest(feature, examples)
    count = active_tokens(feature, examples, tokens)
    top = _top_tokens(examples, sequences)
    near = [
        (number, cosine)
        for number, cosine in zip(feature.near, feature.near_cosine, strict=True)
        if number in known and number != feature.number
    ]
    return FeatureStatisticsRow(
        number=feature.number,
        count=count,
        density=_density(feature, count, tokens),
        max=maximum,
        mean=_mean(feature, examples),
        histogram=histogram(feature, maximum),
        band_edges=_Bands(examples, maximum).edges if count else [],
        top_token_ids=[token.id for token in top],
        top_token_counts=[token.count for token in top],
        top_token_shares=[token.share for token in top],
        top_token_means=[token.mass / token.count for token in top],
        promoted_ids=[ids[token] for token in feature.promoted],
        promoted_logits=feature.promoted_logits,
        suppressed_ids=[ids[token] for token in feature.suppressed],
        suppressed_logits=feature.suppressed_logits,
        near=[number for number, _ in near],
        near_cosine=[cosine for _, cosine in near],
        health=[],
        **_NOT_STATED,
    )


def largest(feature: SpooledFeature, examples: Sequence[SpooledExample]) -> float:
    """Return the highest activation: as stated or seen in an example, else the end of the histogram."""
    seen = max((max(example.activations) for example in examples), default=0.0)
    return max(feature.maximum, seen) or (_end(feature) if any(feature.heights) else 0.0)


def _end(feature: SpooledFeature) -> float:
    """Return the end of the last bin of the histogram."""
    return max(0.0, feature.middles[-1] + _width(feature) / 2)


def _width(feature: SpooledFeature) -> float:
    """Return the width of a bin; 0 if there is only one, or if rounding has left no difference."""
    middles = feature.middles
    return (middles[-1] - middles[0]) / (len(middles) - 1) if len(middles) > 1 else 0.0


def histogram(feature: SpooledFeature, maximum: float) -> list[int]:
    """Return counts of equal bins over (0, maximum], as many as give them the width of the export's bins.

    The export's bins begin at the lowest activation above zero; our bins below it are empty. Each of the export's bins
    becomes one of ours with the same count, and its edges are off by less than half a bin.
    """
    heights = feature.heights
    if not any(heights) or maximum <= 0:
        return [0] * HISTOGRAM_BINS
    width = _width(feature)
    if width <= 0:
        return [0] * (HISTOGRAM_BINS - 1) + [sum(heights)]
    bins = max(len(heights), min(round(_end(feature) / width), _MAX_BINS))
    return [0] * (bins - len(heights)) + heights


def active_tokens(feature: SpooledFeature, examples: Sequence[SpooledExample], tokens: Tokens | None) -> int:
    """Count the tokens that the feature is active on: by the histogram, else the density, else the examples."""
    counted = sum(feature.heights)
    if not counted and tokens is not None:
        counted = round(feature.density * tokens.number)
    return counted or len({(example.sequence, place) for example in examples for place in example.positions})


def _density(feature: SpooledFeature, count: int, tokens: Tokens) -> float:
    """Return the stated density, or the exact one if it gives the stated one by SAEDashboard's rounding to 0.001 %."""
    exact, stated = min(1.0, count / tokens.number), feature.density
    return exact if not stated or stated == round(stated, 5) == round(exact, 5) else stated


def _mean(feature: SpooledFeature, examples: Sequence[SpooledExample]) -> float:
    total = sum(feature.heights)
    if total:
        return max(0.0, sum(h * m for h, m in zip(feature.heights, feature.middles, strict=True)) / total)
    values = [value for example in examples for value in example.activations]
    return sum(values) / len(values) if values else 0.0


@dataclass(slots=True)
class _TopToken:
    """A token of the examples; `mass` is the sum of the feature's activations on it, `share` its share of the total."""

    id: int
    count: int = 0
    mass: float = 0.0
    share: float = 0.0


def _top_tokens(examples: Sequence[SpooledExample], sequences: SpooledSequences) -> list[_TopToken]:
    """Return the tokens with most of the activation in the examples; a text that occurs twice counts once."""
    found: dict[int, _TopToken] = {}
    for sequence, example in {example.sequence: example for example in examples}.items():
        for position, value in zip(example.positions, example.activations, strict=True):
            number = sequences.token(sequence, position)
            token = found.setdefault(number, _TopToken(number))
            token.count += 1
            token.mass += value
    total = sum(token.mass for token in found.values())
    for token in found.values():
        token.share = token.mass / total
    return sorted(found.values(), key=lambda token: (-token.mass, token.id))[:TOP_TOKENS]


def example_rows(spool: Spool) -> Iterator[ExampleRow]:
    """Yield a row per example, in the order of features, bands and activations; a text once per band."""
    for feature in spool.features():
        examples = spool.examples(feature.number)
        bands = _Bands(examples, largest(feature, examples))
        found: dict[int, dict[int, SpooledExample]] = defaultdict(dict)
        for example in sorted(examples, key=lambda example: -example.activation):
            found[bands.of(example)].setdefault(example.sequence, example)
        for band in sorted(found):
            for rank, example in enumerate(list(found[band].values())[:MAX_LIMIT]):
                yield ExampleRow(
                    feature=feature.number,
                    band=band,
                    rank=rank,
                    sequence=example.sequence,
                    position=example.position,
                    activation=example.activation,
                    positions=example.positions,
                    values=example.activations,
                )


class _Bands:
    """Maps examples to our bands by the interval that the export drew them from.

    Five intervals are the five bands, whatever their edges. With another number of intervals, as when nothing was drawn
    from one of them, the bands are five equal parts of (0, maximum], as SAEDashboard's intervals are.
    """

    def __init__(self, examples: Sequence[SpooledExample], maximum: float) -> None:
        found = {(one.low, one.high) for one in examples if one.low is not None and one.high is not None}
        intervals = sorted(found)
        self._maximum = maximum
        self._place = {interval: 1 + place for place, interval in enumerate(intervals)} if len(found) == BANDS else {}
        if self._place:
            self.edges = [intervals[0][0], *(high for _, high in intervals)]
        else:
            self.edges = [maximum * place / BANDS for place in range(BANDS + 1)]

    def of(self, example: SpooledExample) -> int:
        """Return the example's band; 0 for a top example."""
        if example.low is None or example.high is None:
            return 0
        if self._place:
            return self._place[example.low, example.high]
        middle = (example.low + example.high) / 2
        return min(BANDS, max(1, 1 + int(BANDS * middle / self._maximum)))
