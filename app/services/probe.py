"""A probe: one prompt through model and SAE, its features ranked by how unusual their activation is for themselves.

**Percentile.** Raw activations cannot be compared between features: each has a scale of its own. So an activation is
placed within the feature's own distribution of non-zero activations over the index, taken from the stored histogram
(equal bins over (0, max]) and interpolated within its bin. 100 means stronger than anything in the corpus.

**Rank.** A prompt's percentile is that of its strongest token, and the strongest of many draws is high by chance: dense
features, which fire on every other token, have high maxima on any prompt and would fill the list. The largest of m
independent draws from the feature's distribution F stays below v with probability F(v)^m, and a feature of density p is
expected to fire on m = n p of n counted tokens. So features are ranked by (percentile / 100)^max(1, n p), then by their
maximum. A sparse feature keeps its percentile as its score; a dense one must be stronger than it usually is at its
strongest in a text this long.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import Unprocessable
from app.queries.features import Histogram, feature_histograms
from app.queries.labels import label_summaries
from app.queries.models import get_tokens
from app.queries.saes import SaeDetail, get_sae
from app.services.inference import FiringFeature, InferenceClient, ProbeAnswer, ProbeRequest
from app.services.tokens import api_texts


@dataclass(frozen=True, slots=True)
class ProbeToken:
    """One token of the prompt; on `special` ones (BOS among them) no feature is looked for."""

    id: int
    bytes: bytes
    text: str
    special: bool


@dataclass(frozen=True, slots=True)
class ProbeFeature:
    """A feature that fires on the prompt, with its activation on every token.

    `percentile` is 0 to 100, of `max` within the feature's own activations; None where the SAE has no index.
    """

    index: int
    label: str | None
    max: float
    max_position: int
    percentile: float | None
    activations: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class TokenFeature:
    """A feature that fires on one token; `percentile` is of this activation."""

    index: int
    label: str | None
    activation: float
    percentile: float | None


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """What a prompt looks like to an SAE: of the `firing` features, the first overall and the first of each token."""

    tokens: tuple[ProbeToken, ...]
    features: tuple[ProbeFeature, ...]
    per_token: tuple[tuple[TokenFeature, ...], ...]
    firing: int


async def probe(
    session: AsyncSession, inference: InferenceClient, sae: SaeDetail, text: str, *, top_k: int
) -> ProbeResult:
    """Run `text` through the SAE's model and the SAE, live; the text is neither kept nor logged.

    Args:
        top_k: at most so many features overall, and for each token.

    Raises:
        Unprocessable: the text is empty, or is not valid Unicode.
        TooLarge: the text is longer than the limit; the message states both.
        InferenceDown: the inference process does not answer.
    """
    check_text(text)
    # The first probe of a model waits for it to load: no database connection is held for that long. Afterwards the SAE
    # is read again, because its index may have been replaced in between.
    await session.commit()
    answer = await inference.probe(ProbeRequest(sae=sae.slug, text=text))
    sae = await get_sae(session, sae.slug) or sae
    tokens = await _tokens(session, sae, answer)
    scored = await _scored(session, sae, answer.features)
    counted = sum(answer.counted)
    best = sorted(scored, key=lambda feature: feature.rank(counted), reverse=True)[:top_k]
    return ProbeResult(
        tokens=tokens,
        features=tuple(feature.overall(len(tokens)) for feature in best),
        per_token=_per_token(scored, len(tokens), top_k),
        firing=len(scored),
    )


def check_text(text: str) -> None:
    """Refuse what no tokenizer can read.

    Raises:
        Unprocessable: the text is empty, or has half a surrogate pair (JSON can spell one).
    """
    if not text:
        raise Unprocessable("The text is empty: enter some words to probe.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"U+{ord(text[error.start]):04X}"
        raise Unprocessable(
            f"The text has half of a surrogate pair ({half}) at character {error.start}, which is no character: "
            "send whole characters."
        ) from None


class Distribution:
    """A feature's non-zero activations over the index, as cumulated histogram counts."""

    def __init__(self, histogram: Histogram) -> None:
        self.edges = histogram.edges
        self.cumulated = (0, *accumulate(histogram.counts))

    @property
    def total(self) -> int:
        """Tokens on which the feature was active."""
        return self.cumulated[-1]

    def percentile(self, activation: float) -> float:
        """Share of the activations below `activation`, 0 to 100; a feature never seen active is at 100."""
        if not self.total or activation >= self.edges[-1]:
            return 100.0
        upper = max(1, bisect_left(self.edges, activation))
        low, high = self.edges[upper - 1], self.edges[upper]
        inside = (activation - low) / (high - low) * (self.cumulated[upper] - self.cumulated[upper - 1])
        return 100.0 * (self.cumulated[upper - 1] + inside) / self.total


class ScoredFeature:
    """A firing feature within what the index knows of it; `distribution` is None without an index."""

    def __init__(
        self, feature: FiringFeature, *, label: str | None, distribution: Distribution | None, indexed_tokens: int
    ) -> None:
        self.feature = feature
        self.label = label
        self.distribution = distribution
        self.indexed_tokens = indexed_tokens
        self.max = max(feature.values)

    def percentile(self, activation: float) -> float | None:
        """As `Distribution.percentile`."""
        return None if self.distribution is None else self.distribution.percentile(activation)

    def rank(self, counted: int) -> tuple[float, float]:
        """Larger is higher: the module's docstring has the formula. `counted` tokens of the prompt were looked at."""
        if self.distribution is None:
            return 0.0, self.max
        expected = counted * self.distribution.total / self.indexed_tokens
        return (self.distribution.percentile(self.max) / 100) ** max(1.0, expected), self.max

    def overall(self, length: int) -> ProbeFeature:
        """Its entry in the whole text's list; the text has `length` tokens."""
        activations = [0.0] * length
        for position, value in zip(self.feature.positions, self.feature.values, strict=True):
            activations[position] = value
        return ProbeFeature(
            index=self.feature.index,
            label=self.label,
            max=self.max,
            max_position=activations.index(self.max),
            percentile=self.percentile(self.max),
            activations=tuple(activations),
        )


def _per_token(scored: Sequence[ScoredFeature], length: int, top_k: int) -> tuple[tuple[TokenFeature, ...], ...]:
    """The features of each token, by percentile of their activation there."""
    per_token: list[list[TokenFeature]] = [[] for _ in range(length)]
    for one in scored:
        for position, value in zip(one.feature.positions, one.feature.values, strict=True):
            per_token[position].append(TokenFeature(one.feature.index, one.label, value, one.percentile(value)))
    for found in per_token:
        found.sort(key=lambda feature: (feature.percentile or 0.0, feature.activation), reverse=True)
    return tuple(tuple(found[:top_k]) for found in per_token)


async def _scored(session: AsyncSession, sae: SaeDetail, features: Sequence[FiringFeature]) -> list[ScoredFeature]:
    firing = [feature.index for feature in features]
    histograms = await feature_histograms(session, sae, firing)
    labels = await label_summaries(session, sae.id, firing)
    return [
        ScoredFeature(
            feature,
            label=labels[feature.index].explanation if feature.index in labels else None,
            distribution=Distribution(histograms[feature.index]) if feature.index in histograms else None,
            indexed_tokens=sae.index.tokens if sae.index else 0,
        )
        for feature in features
    ]


async def _tokens(session: AsyncSession, sae: SaeDetail, answer: ProbeAnswer) -> tuple[ProbeToken, ...]:
    known = await get_tokens(session, sae.model.id, set(answer.token_ids))
    found = [known[token_id] for token_id in answer.token_ids]
    texts = api_texts([token.bytes for token in found])
    return tuple(
        ProbeToken(id=token.id, bytes=token.bytes, text=text, special=not counted)
        for token, text, counted in zip(found, texts, answer.counted, strict=True)
    )
