"""Features: the list with its filters, and everything about one."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

from sqlalchemy import ColumnElement, Row, Select, bindparam, cast, exists, func, literal, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import Unprocessable
from app.queries.cursors import Cursor
from app.queries.examples import ExampleView, best_examples
from app.queries.expressions import among, submitted
from app.queries.labels import LabelSummary, LabelView, label_summaries, list_labels
from app.queries.models import TokenInfo, get_tokens
from app.queries.saes import SaeDetail
from app.queries.search import matches
from app.queries.values import storable
from app.tables import Feature, Label

MAX_LIMIT = 200
MAX_QUERY = 200
"""Characters of a search."""

Sort = Literal["density", "max", "index"]
LabelFilter = Literal["labelled", "unlabelled"]


@dataclass(frozen=True, slots=True)
class FeatureFilter:
    """Which features to list, and in which order. `cursor` is a `FeaturePage.next_cursor` of the same sort.

    `q` searches label explanations, label categories and top tokens.
    """

    sort: Sort = "density"
    descending: bool = True
    min_density: float | None = None
    max_density: float | None = None
    q: str = ""
    label: LabelFilter | None = None
    limit: int = 50
    cursor: str | None = None


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
class FeatureRow:
    """A feature as the list shows it; `histogram` holds counts of 50 equal bins over (0, max]."""

    index: int
    density: float
    count: int
    max: float
    mean: float
    histogram: tuple[int, ...]
    top_tokens: tuple[TopToken, ...]
    example: ExampleView | None
    label: LabelSummary | None
    health: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FeaturePage:
    """One page of a list; `total` counts all features that pass the filter, on all pages."""

    rows: tuple[FeatureRow, ...]
    next_cursor: str | None
    total: int


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
    """Everything a feature's page shows but its examples."""

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


async def list_features(session: AsyncSession, sae: SaeDetail, filter: FeatureFilter) -> FeaturePage:
    """One page of an SAE's features; empty without an index.

    Raises:
        Unprocessable: a bound, limit, sort, label filter, search or cursor that makes no sense.
    """
    _check(filter)
    if sae.index is None:
        return FeaturePage((), None, 0)
    cursor = None
    if filter.cursor is not None:
        cursor = Cursor.decode(filter.cursor, sort=filter.sort, descending=filter.descending)
    found = (await session.execute(_page(sae, sae.index.id, filter, cursor))).all()
    features, more = found[: filter.limit], len(found) > filter.limit
    if cursor is not None:
        total = cursor.total
    elif filter.q.strip():
        total = found[0].total if found else 0
    else:
        total = await _total(session, sae, sae.index.id, filter)

    numbers = [feature.number for feature in features]
    tokens = await get_tokens(session, sae.model.id, chain.from_iterable(row.top_token_ids for row in features))
    examples = await best_examples(session, sae, numbers)
    labels = await label_summaries(session, sae.id, numbers)
    rows = tuple(
        FeatureRow(
            index=feature.number,
            density=feature.density,
            count=feature._mapping["count"],
            max=feature.max,
            mean=feature.mean,
            histogram=tuple(feature.histogram),
            top_tokens=_top_tokens(feature, tokens),
            example=examples.get(feature.number),
            label=labels.get(feature.number),
            health=tuple(feature.health),
        )
        for feature in features
    )
    return FeaturePage(rows, _cursor(filter, features[-1], total) if more else None, total)


_LISTED: tuple[Any, ...] = (
    Feature.number,
    Feature.density,
    Feature.count,
    Feature.max,
    Feature.mean,
    Feature.histogram,
    Feature.top_token_ids,
    Feature.top_token_counts,
    Feature.top_token_shares,
    Feature.top_token_means,
    Feature.health,
)
_SORTS = {"density": Feature.density, "max": Feature.max, "index": Feature.number}


def _check(filter: FeatureFilter) -> None:
    if filter.sort not in _SORTS:
        raise Unprocessable(f"Features cannot be sorted by that: choose one of {', '.join(_SORTS)}.")
    if filter.label not in (None, "labelled", "unlabelled"):
        raise Unprocessable("Features can be filtered by label as labelled or unlabelled.")
    if filter.limit not in range(1, MAX_LIMIT + 1):
        raise Unprocessable(f"A page holds 1 to {MAX_LIMIT} features.")
    for bound in (filter.min_density, filter.max_density):
        if bound is not None and not (math.isfinite(bound) and bound >= 0):
            raise Unprocessable("A density is a number from 0 to 1.")
    if len(filter.q) > MAX_QUERY or not storable(filter.q):
        raise Unprocessable(f"A search has up to {MAX_QUERY} characters, and no NUL.")


def _page(sae: SaeDetail, index_id: int, filter: FeatureFilter, cursor: Cursor | None) -> Select[Any]:
    """The features of this page, and one more if there is a next one.

    They are found by number first: an index of few columns then does for all but the rows that are shown. The number
    breaks ties in the same direction, so that one index serves both directions. A search finds its features all at
    once, in no order, and so counts them with the first page.
    """
    column = _SORTS[filter.sort]
    own = Feature.index_id == index_id
    total = func.count().over() if filter.q.strip() and cursor is None else literal(0)
    wanted = select(Feature.number, total.label("total")).where(own, *_densities(filter), *_words(sae, filter))
    if filter.label is not None:
        wanted = wanted.where(_labelled(sae) if filter.label == "labelled" else ~_labelled(sae))
    if cursor is not None:
        here, last = tuple_(column, Feature.number), tuple_(cast(cursor.value, column.type), cursor.number)
        wanted = wanted.where(here < last if filter.descending else here > last)
    order = [each.desc() if filter.descending else each for each in (column, Feature.number)]
    page = wanted.order_by(*order).limit(filter.limit + 1).subquery()
    rows = select(*_LISTED, page.c.total).join(page, page.c.number == Feature.number)
    return rows.where(own).order_by(*order)


async def _total(session: AsyncSession, sae: SaeDetail, index_id: int, filter: FeatureFilter) -> int:
    """How many features pass a filter that searches for nothing.

    Those without a label are the others: looking for each that it has none would take ten times as long.
    """
    densities = _densities(filter)
    passing = select(func.count()).select_from(Feature).where(Feature.index_id == index_id, *densities)
    labelled = passing.where(_labelled(sae))
    if filter.label == "labelled":
        return await session.scalar(labelled) or 0
    total = await session.scalar(passing) if densities else sae.d_sae
    return (total or 0) - (await session.scalar(labelled) or 0 if filter.label == "unlabelled" else 0)


def _cursor(filter: FeatureFilter, last: Row[Any], total: int) -> str:
    value = {"density": last.density, "max": last.max, "index": last.number}[filter.sort]
    return Cursor(filter.sort, filter.descending, value, last.number, total).encode()


def _densities(filter: FeatureFilter) -> list[ColumnElement[bool]]:
    bounds = []
    if filter.min_density is not None:
        bounds.append(Feature.density >= filter.min_density)
    if filter.max_density is not None:
        bounds.append(Feature.density <= filter.max_density)
    return bounds


def _labelled(sae: SaeDetail) -> ColumnElement[bool]:
    return exists().where(Label.sae_id == sae.id, Label.feature == Feature.number, submitted)


def _words(sae: SaeDetail, filter: FeatureFilter) -> list[ColumnElement[bool]]:
    query = filter.q.strip()
    return [matches(sae.id, query)] if query else []


_ONE = select(Feature.__table__).where(Feature.index_id == bindparam("index"), Feature.number == bindparam("number"))


async def get_feature(session: AsyncSession, sae: SaeDetail, index: int) -> FeatureDetail | None:
    """One feature of the SAE's current index; None where there is no such feature or no index."""
    if sae.index is None or index not in range(sae.d_sae):
        return None
    feature = (await session.execute(_ONE, {"index": sae.index.id, "number": index})).one_or_none()
    if feature is None:
        return None
    tokens = await get_tokens(
        session, sae.model.id, chain(feature.top_token_ids, feature.promoted_ids, feature.suppressed_ids)
    )
    neighbours = await label_summaries(session, sae.id, {*feature.coactive, *feature.near})
    return FeatureDetail(
        index=feature.number,
        tokens=sae.index.tokens,
        density=feature.density,
        count=feature._mapping["count"],  # a row is a tuple, whose `count` is a method
        max=feature.max,
        mean=feature.mean,
        histogram=_histogram(feature.max, feature.histogram),
        band_edges=tuple(feature.band_edges),
        top_tokens=_top_tokens(feature, tokens),
        promoted=_output_tokens(feature.promoted_ids, feature.promoted_logits, tokens),
        suppressed=_output_tokens(feature.suppressed_ids, feature.suppressed_logits, tokens),
        coactive=_coactive(feature, neighbours),
        near=tuple(
            NearFeature(other, neighbours.get(other), cosine)
            for other, cosine in zip(feature.near, feature.near_cosine, strict=True)
        ),
        topics=_topics(feature, sae.index.topics),
        health=tuple(feature.health),
        labels=tuple(await list_labels(session, sae.id, index)),
    )


async def feature_histograms(session: AsyncSession, sae: SaeDetail, indices: Collection[int]) -> dict[int, Histogram]:
    """Activation histograms of many features, for percentiles of live activations."""
    if sae.index is None:
        return {}
    rows = await session.execute(
        select(Feature.number, Feature.max, Feature.histogram).where(
            Feature.index_id == sae.index.id, among(Feature.number, indices)
        )
    )
    return {number: _histogram(maximum, counts) for number, maximum, counts in rows}


def _histogram(maximum: float, counts: list[int]) -> Histogram:
    """`counts` of equal bins over (0, maximum], with the bins' edges."""
    return Histogram(tuple(maximum * place / len(counts) for place in range(len(counts) + 1)), tuple(counts))


def _top_tokens(feature: Row[Any], tokens: Mapping[int, TokenInfo]) -> tuple[TopToken, ...]:
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
