"""Our rows out of what an export says, and what is worked out where it does not say.

What is worked out, and from what: the number of active tokens from the heights of the histogram; the mean from its
middles; top tokens from the examples. `app.web.components.glossary` says so on the pages.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from app.exchange.neuronpedia.spool import Spool, SpooledExample, SpooledFeature, SpooledSequences
from app.queries.examples import BANDS, MAX_LIMIT
from app.queries.publish import ExampleRow, FeatureStatisticsRow

_TOP_TOKENS = 10
_BINS = 50
_MOST_BINS = 1000


@dataclass(frozen=True, slots=True)
class Tokens:
    """What the features were counted on."""

    number: int
    stated: bool
    """False where the export does not say, and the number is worked out from densities and histograms."""


def feature_rows(
    spool: Spool, sequences: SpooledSequences, ids: Sequence[int], tokens: Tokens
) -> Iterator[FeatureStatisticsRow]:
    """A row for every feature that the export describes, in order.

    Args:
        ids: of the tokens of the spool's vocabulary.
    """
    there = set(spool.numbers())
    for feature in spool.features():
        yield _feature_row(feature, spool.examples(feature.number), sequences, ids, tokens, there)


def _feature_row(
    feature: SpooledFeature,
    examples: Sequence[SpooledExample],
    sequences: SpooledSequences,
    ids: Sequence[int],
    tokens: Tokens,
    there: AbstractSet[int],
) -> FeatureStatisticsRow:
    maximum = largest(feature, examples)
    count = active_tokens(feature, examples, tokens)
    top = _top_tokens(examples, sequences)
    near = [
        (number, cosine)
        for number, cosine in zip(feature.near, feature.near_cosine, strict=True)
        if number in there and number != feature.number
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
        coactive=[],
        coactive_pmi=[],
        coactive_joint=[],
        coactive_given_this=[],
        coactive_given_other=[],
        near=[number for number, _ in near],
        near_cosine=[cosine for _, cosine in near],
        topics=[],
        topic_counts=[],
        topic_shares=[],
        topic_lifts=[],
        health=[],
    )


def largest(feature: SpooledFeature, examples: Sequence[SpooledExample]) -> float:
    """The highest activation: as stated or seen in an example, else the end of the histogram."""
    seen = max((max(example.activations) for example in examples), default=0.0)
    return max(feature.maximum, seen) or (_end(feature) if any(feature.heights) else 0.0)


def _end(feature: SpooledFeature) -> float:
    """Where the last bin of the histogram ends."""
    return max(0.0, feature.middles[-1] + _width(feature) / 2)


def _width(feature: SpooledFeature) -> float:
    """Of a bin; 0 where there is one, or where rounding has left no difference."""
    middles = feature.middles
    return (middles[-1] - middles[0]) / (len(middles) - 1) if len(middles) > 1 else 0.0


def histogram(feature: SpooledFeature, maximum: float) -> list[int]:
    """Counts of equal bins over (0, maximum], as many as make them as wide as the export's own.

    Those begin at the lowest activation above zero; bins below it are empty. Each of the export's bins is then one of
    ours, with its count as it is, and its edges are off by less than half a bin.
    """
    heights = feature.heights
    if not any(heights) or maximum <= 0:
        return [0] * _BINS
    width = _width(feature)
    if width <= 0:
        return [0] * (_BINS - 1) + [sum(heights)]
    bins = max(len(heights), min(round(_end(feature) / width), _MOST_BINS))
    return [0] * (bins - len(heights)) + heights


def active_tokens(feature: SpooledFeature, examples: Sequence[SpooledExample], tokens: Tokens | None) -> int:
    """Tokens that the feature is active on: the histogram's, else by its density, else those of its examples."""
    counted = sum(feature.heights)
    if not counted and tokens is not None:
        counted = round(feature.density * tokens.number)
    return counted or len({(each.sequence, place) for each in examples for place in each.positions})


def _density(feature: SpooledFeature, count: int, tokens: Tokens) -> float:
    """The stated density, or the exact one where the stated one is that, rounded to 0.001 % as SAEDashboard does."""
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
    """A token of the examples; `mass` is the sum of the feature's activations on it, `share` its part of all."""

    id: int
    count: int = 0
    mass: float = 0.0
    share: float = 0.0


def _top_tokens(examples: Sequence[SpooledExample], sequences: SpooledSequences) -> list[_TopToken]:
    """The tokens that carry most of the activation in the examples; a text that comes twice counts once."""
    found: dict[int, _TopToken] = {}
    for sequence, example in {each.sequence: each for each in examples}.items():
        for position, value in zip(example.positions, example.activations, strict=True):
            number = sequences.token(sequence, position)
            token = found.setdefault(number, _TopToken(number))
            token.count += 1
            token.mass += value
    total = sum(token.mass for token in found.values())
    for token in found.values():
        token.share = token.mass / total
    return sorted(found.values(), key=lambda token: (-token.mass, token.id))[:_TOP_TOKENS]


def example_rows(spool: Spool) -> Iterator[ExampleRow]:
    """A row for every example, in the order of features, bands and activations; a text once in a band."""
    for feature in spool.features():
        examples = spool.examples(feature.number)
        bands = _Bands(examples, largest(feature, examples))
        found: dict[int, dict[int, SpooledExample]] = defaultdict(dict)
        for example in sorted(examples, key=lambda each: -each.activation):
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
    """Which of our bands an example belongs to, by the interval that the export drew it from.

    Five intervals are the five bands, whatever their edges. With another number of them, as where nothing was drawn
    from one, the bands are five equal parts of (0, maximum], which SAEDashboard's intervals are.
    """

    def __init__(self, examples: Sequence[SpooledExample], maximum: float) -> None:
        found = {(each.low, each.high) for each in examples if each.low is not None and each.high is not None}
        intervals = sorted(found)
        self._maximum = maximum
        self._place = {interval: 1 + place for place, interval in enumerate(intervals)} if len(found) == BANDS else {}
        if self._place:
            self.edges = [intervals[0][0], *(high for _, high in intervals)]
        else:
            self.edges = [maximum * place / BANDS for place in range(BANDS + 1)]

    def of(self, example: SpooledExample) -> int:
        """The example's band; 0 for the top ones."""
        if example.low is None or example.high is None:
            return 0
        if self._place:
            return self._place[example.low, example.high]
        middle = (example.low + example.high) / 2
        return min(BANDS, max(1, 1 + int(BANDS * middle / self._maximum)))
