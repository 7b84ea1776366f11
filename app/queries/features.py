"""The statistics of one feature, with the tokens, labels and topics that they refer to."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

from sqlalchemy import Row, bindparam, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.queries.effects import EffectView, get_effect
from app.queries.feature_holdings import ANYTHING, FeatureHoldings
from app.queries.labels import LabelSummary, LabelView, label_summaries, list_labels
from app.queries.models import TokenInfo, get_tokens
from app.queries.saes import SaeDetail
from app.queries.sql.expressions import in_array
from app.queries.sql.visibility import NOBODY, Reader
from app.queries.suggestions import SuggestionView, list_suggestions
from app.tables import Feature
from sae_core.statistics.spec import PLAIN, Statistic


@dataclass(frozen=True, slots=True)
class TopToken:
    """A token a feature is active on; `share` is of the feature's activation mass."""

    id: int
    bytes: bytes
    special: bool
    count: int
    share: float
    mean: float


@dataclass(frozen=True, slots=True)
class OutputToken:
    """A token whose logit the feature's decoder direction raises or lowers directly."""

    id: int
    bytes: bytes
    special: bool
    logit: float


@dataclass(frozen=True, slots=True)
class CoactiveFeature:
    """A feature active on the same tokens. `given_this` is P(other active | this active), `joint` a token count."""

    index: int
    label: LabelSummary | None
    pmi: float
    joint: int
    given_this: float
    given_other: float


@dataclass(frozen=True, slots=True)
class NearFeature:
    """A feature with a near decoder direction."""

    index: int
    label: LabelSummary | None
    cosine: float


@dataclass(frozen=True, slots=True)
class TopicShare:
    """A document topic: the feature's active tokens in it, their share, and the share over the topic's own (lift)."""

    topic: str
    count: int
    share: float
    lift: float


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of non-zero activations in bins; `edges` has one entry more than `counts`."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class FeatureDetail:
    """Everything that a feature's page shows except its examples."""

    index: int
    tokens: int
    density: float
    count: int
    max: float
    mean: float
    histogram: Histogram
    band_edges: tuple[float, ...]
    top_tokens: tuple[TopToken, ...]
    promoted: tuple[OutputToken, ...]
    suppressed: tuple[OutputToken, ...]
    coactive: tuple[CoactiveFeature, ...]
    near: tuple[NearFeature, ...]
    topics: tuple[TopicShare, ...]
    health: tuple[str, ...]
    labels: tuple[LabelView, ...]
    label: LabelSummary | None
    """The name that everybody sees: a decision or the newest label."""
    extra: Mapping[str, Any]
    """`EXTRA` by name; None where the index was published before the statistic was added."""
    suggestions: tuple[SuggestionView, ...] = ()
    """What machines said, which is never a label."""
    effect: EffectView | None = None
    """None if it was never measured."""


EXTRA: tuple[Statistic, ...] = tuple(known for known in PLAIN if known.name not in FeatureDetail.__dataclass_fields__)
"""Statistics that stand alone and have no field in `FeatureDetail`: they are given as they are stored."""


_ONE = select(Feature.__table__).where(Feature.index_id == bindparam("index"), Feature.number == bindparam("number"))


async def get_feature(
    session: AsyncSession,
    sae: SaeDetail,
    index: int,
    *,
    reader: Reader = NOBODY,
    has: FeatureHoldings = ANYTHING,
) -> FeatureDetail | None:
    """Return one feature of the SAE's current index; None if there is no such feature or no index.

    Its labels are those that `reader` may see. What it does not have, as `has` knows, is not asked for.
    """
    if sae.index is None or index not in range(sae.d_sae):
        return None
    feature = (await session.execute(_ONE, {"index": sae.index.id, "number": index})).one_or_none()
    if feature is None:
        return None
    tokens = await get_tokens(
        session, sae.model.id, chain(feature.top_token_ids, feature.promoted_ids, feature.suppressed_ids)
    )
    called = await label_summaries(session, sae.id, {index, *feature.coactive, *feature.near})
    return FeatureDetail(
        index=feature.number,
        tokens=sae.index.tokens,
        density=feature.density,
        count=feature._mapping["count"],  # a row is a tuple, whose `count` is a method
        max=feature.max,
        mean=feature.mean,
        histogram=_histogram(feature.max, feature.histogram),
        band_edges=tuple(feature.band_edges),
        top_tokens=top_tokens(feature, tokens),
        promoted=_output_tokens(feature.promoted_ids, feature.promoted_logits, tokens),
        suppressed=_output_tokens(feature.suppressed_ids, feature.suppressed_logits, tokens),
        coactive=_coactive(feature, called),
        near=tuple(
            NearFeature(other, called.get(other), cosine)
            for other, cosine in zip(feature.near, feature.near_cosine, strict=True)
        ),
        topics=_topics(feature, sae.index.topics),
        health=tuple(feature.health),
        label=called.get(index),
        labels=tuple(await list_labels(session, sae.id, index, reader=reader)) if has.labels else (),
        extra={statistic.name: feature._mapping[statistic.name] for statistic in EXTRA},
        suggestions=tuple(await list_suggestions(session, sae.id, index)) if has.suggestions else (),
        effect=await get_effect(session, sae, index) if has.effect else None,
    )


async def feature_numbers(session: AsyncSession, sae: SaeDetail) -> list[int]:
    """Return the numbers of all features that the SAE's index has, in order."""
    if sae.index is None:
        return []
    own = select(Feature.number).where(Feature.index_id == sae.index.id)
    return list(await session.scalars(own.order_by(Feature.number)))


async def like_in_mass(session: AsyncSession, sae: SaeDetail, index: int, seed: int = 0) -> int | None:
    """Return another feature whose sum of activations over the index is about that of this one.

    Of the twenty nearest, one is drawn by a hash of both numbers and the seed: random, and the same each time. None
    without an index, or if this feature or every other one was never active.
    """
    if sae.index is None:
        return None
    mass = Feature.count * Feature.mean
    own = select(mass).where(Feature.index_id == sae.index.id, Feature.number == index).scalar_subquery()
    nearest = (
        select(Feature.number, Feature.index_id)
        .where(Feature.index_id == sae.index.id, Feature.number != index, Feature.count > 0, own > 0)
        .order_by(func.abs(func.ln(mass / own)), Feature.number)
        .limit(20)
        .subquery()
    )
    drawn = func.md5(func.concat(nearest.c.number, " ", index, " ", seed))
    return await session.scalar(select(nearest.c.number).order_by(drawn).limit(1))


async def features_around(session: AsyncSession, sae: SaeDetail, index: int) -> tuple[int | None, int | None]:
    """Return the features of the index before and after this number; None where there is none."""
    if sae.index is None:
        return None, None
    if sae.indexed == sae.d_sae:
        return index - 1 if index > 0 else None, index + 1 if index + 1 < sae.d_sae else None
    own = Feature.index_id == sae.index.id
    before = await session.scalar(select(func.max(Feature.number)).where(own, Feature.number < index))
    after = await session.scalar(select(func.min(Feature.number)).where(own, Feature.number > index))
    return before, after


async def feature_histograms(session: AsyncSession, sae: SaeDetail, indices: Collection[int]) -> dict[int, Histogram]:
    """Return activation histograms of many features, for percentiles of live activations."""
    if sae.index is None:
        return {}
    rows = await session.execute(
        select(Feature.number, Feature.max, Feature.histogram).where(
            Feature.index_id == sae.index.id, in_array(Feature.number, indices)
        )
    )
    return {number: _histogram(maximum, counts) for number, maximum, counts in rows}


def _histogram(maximum: float, counts: list[int]) -> Histogram:
    """Return `counts` of equal bins over (0, maximum] with the bins' edges."""
    return Histogram(tuple(maximum * place / len(counts) for place in range(len(counts) + 1)), tuple(counts))


def top_tokens(feature: Row[Any], tokens: Mapping[int, TokenInfo]) -> tuple[TopToken, ...]:
    """Return the top tokens of a row that has their columns, best first."""
    columns = (feature.top_token_ids, feature.top_token_counts, feature.top_token_shares, feature.top_token_means)
    return tuple(
        TopToken(token, tokens[token].bytes, tokens[token].special, count, share, mean)
        for token, count, share, mean in zip(*columns, strict=True)
    )


def _output_tokens(ids: list[int], logits: list[float], tokens: Mapping[int, TokenInfo]) -> tuple[OutputToken, ...]:
    return tuple(
        OutputToken(token, tokens[token].bytes, tokens[token].special, logit)
        for token, logit in zip(ids, logits, strict=True)
    )


def _coactive(feature: Row[Any], labels: dict[int, LabelSummary]) -> tuple[CoactiveFeature, ...]:
    columns = (
        feature.coactive,
        feature.coactive_pmi,
        feature.coactive_joint,
        feature.coactive_given_this,
        feature.coactive_given_other,
    )
    return tuple(
        CoactiveFeature(other, labels.get(other), pmi, joint, given_this, given_other)
        for other, pmi, joint, given_this, given_other in zip(*columns, strict=True)
    )


def _topics(feature: Row[Any], names: tuple[str, ...]) -> tuple[TopicShare, ...]:
    columns = (feature.topics, feature.topic_counts, feature.topic_shares, feature.topic_lifts)
    return tuple(
        TopicShare(names[topic], count, share, lift) for topic, count, share, lift in zip(*columns, strict=True)
    )
