"""The list of an SAE's features: filters, orders, keyset pages."""

import math
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Literal, get_args

from sqlalchemy import (
    REAL,
    ColumnElement,
    FromClause,
    Row,
    Select,
    and_,
    bindparam,
    cast,
    exists,
    false,
    func,
    literal,
    literal_column,
    select,
    tuple_,
)
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from sqlalchemy.orm import InstrumentedAttribute, aliased

from app.db import transaction
from app.errors import Unavailable, Unprocessable
from app.queries.effects import EffectSummary, effect_summaries
from app.queries.examples import ExampleView, best_examples
from app.queries.features import FeatureDetail, TopToken, top_tokens
from app.queries.labels import LabelSummary, label_summaries
from app.queries.matches import FeatureMatch, feature_matches
from app.queries.models import get_tokens, tokens_spelled
from app.queries.saes import SaeDetail, get_sae
from app.queries.search import match_score, matches, terms, token_matches
from app.queries.spelling import corrected
from app.queries.sql.cursors import Cursor
from app.queries.sql.expressions import in_array, submitted
from app.queries.sql.paging import one_page
from app.queries.sql.pg_safe import storable
from app.queries.suggestions import SuggestionView, suggested_texts
from app.tables import Feature, FeatureEffect, Label
from app.tables.features import NO_COHERENCE
from sae_core.statistics.spec import HEALTH_FLAGS, HealthFlag

MAX_LIMIT = 200
MAX_QUERY = 200
"""Characters of a search, and of any other text to filter by."""

Sort = Literal["match", "coherence", "density", "max", "mean", "effect", "index"]
EffectFilter = Literal["used", "measured"]
LabelFilter = Literal["labelled", "unlabelled"]


@dataclass(frozen=True, slots=True)
class FeatureFilter:
    """Filters of a list of features, all of which must hold, and its order. Bounds are inclusive.

    `cursor` is a `FeaturePage.next_cursor` of the same order.
    """

    sort: Sort | None = None
    """None: by match in a search, else by coherence, or by density in an index without it."""
    descending: bool = True
    min_density: float | None = None
    max_density: float | None = None
    min_max: float | None = None
    max_max: float | None = None
    q: str = ""
    """Searched in label explanations, label categories and top tokens."""
    health: HealthFlag | None = None
    token: str = ""
    """A token among the top tokens, as it is or after a space."""
    promotes: str = ""
    """The same among the promoted output tokens."""
    topic: str = ""
    """A topic of documents in which the feature is over-represented."""
    label: LabelFilter | None = None
    author: str = ""
    """The author of one of its submitted labels."""
    category: str = ""
    """A category of one of them."""
    effect: EffectFilter | None = None
    """Features whose effect was measured, or is beyond chance."""
    limit: int = 50
    cursor: str | None = None

    def order(self, sae: SaeDetail) -> Sort:
        """Return what the list is sorted by.

        By match, features whose label matches come first (`matching_labels` ranks them), then those with the largest
        share of their activation on top tokens that match.
        """
        if self.sort:
            return self.sort
        if self.q.strip():
            return "match"
        return "coherence" if sae.index and sae.index.coherent else "density"


@dataclass(frozen=True, slots=True)
class FeatureRow:
    """A feature as the list shows it; `histogram` holds counts of equal bins over (0, max]."""

    index: int
    density: float
    count: int
    max: float
    mean: float
    coherence: float | None
    """In bits; None if it has too few examples, or if the index was made without it."""
    histogram: tuple[int, ...]
    top_tokens: tuple[TopToken, ...]
    example: ExampleView | None
    label: LabelSummary | None
    health: tuple[str, ...]
    match: FeatureMatch | None = None
    """The reason why a search found it."""
    effect: EffectSummary | None = None
    """None if it was never measured."""
    suggestion: SuggestionView | None = None
    """A machine's suggestion that has a text; None if the feature has a label of a person."""


@dataclass(frozen=True, slots=True)
class FeaturePage:
    """One page of a list; `total` counts all features that pass the filter, on all pages."""

    rows: tuple[FeatureRow, ...]
    next_cursor: str | None
    total: int
    corrected: str | None = None
    """The text that was searched for instead of the filter's `q`, a word of which matches no feature of the SAE."""


async def list_features(
    session: AsyncSession, sae: SaeDetail, filter: FeatureFilter, *, with_examples: bool = True
) -> FeaturePage:
    """Return one page of an SAE's features; empty without an index.

    Raises:
        Unprocessable: a filter, order, limit or cursor is not valid; the message says what is.
    """
    _check(sae, filter)
    if sae.index is None:
        return FeaturePage((), None, 0)
    cursor = None
    if filter.cursor is not None:
        cursor = Cursor.decode(filter.cursor, sort=filter.order(sae), descending=filter.descending)
    conditions = await _conditions(session, sae, filter)
    found = await _read_page(session, sae, filter, conditions, cursor)
    instead = None
    if filter.q and not found:
        instead = await corrected(session, sae, filter.q)
        if instead is not None:
            filter = replace(filter, q=instead)
            found = await _read_page(session, sae, filter, conditions, cursor)
    features, more = one_page(found, filter.limit)
    if cursor is not None:
        total = cursor.total
    elif filter.q.strip():
        total = found[0].total if found else 0
    else:
        total = await _total(session, sae, filter, conditions)

    rows = await _shown(session, sae, features, with_examples=with_examples, q=filter.q.strip())
    return FeaturePage(rows, _cursor(sae, filter, features[-1], total) if more else None, total, instead)


async def feature_rows(
    session: AsyncSession, sae: SaeDetail, numbers: Collection[int], *, with_examples: bool = True
) -> dict[int, FeatureRow]:
    """Return these features as a list shows them, by number; none without an index."""
    if sae.index is None or not numbers:
        return {}
    found = (await session.execute(_THESE, {"index": sae.index.id, "numbers": list(numbers)})).all()
    return {row.index: row for row in await _shown(session, sae, found, with_examples=with_examples)}


async def filtered_features(session: AsyncSession, sae: SaeDetail, filter: FeatureFilter, *, limit: int) -> list[int]:
    """Return the numbers of the features that pass a filter, in its order, `limit` of them at most.

    Raises:
        Unprocessable: a filter or order is not valid; the message says what is.
    """
    _check(sae, filter)
    if sae.index is None:
        return []
    conditions = await _conditions(session, sae, filter)
    tokens = await _matching_tokens(session, sae, filter, conditions) if filter.order(sae) == "match" else ()
    wanted = _numbers(sae, replace(filter, limit=limit - 1), conditions, None, tokens)
    return list(await session.scalars(wanted))


UNLABELLED = FeatureFilter(sort="max", label="unlabelled")
"""The queue of features to label: the strongest first."""


async def next_unlabelled(session: AsyncSession, sae: SaeDetail, after: FeatureDetail) -> FeatureRow | None:
    """Return the feature that follows this one in the queue, after its end the first; None if there is no other."""
    here = Cursor("max", True, after.max, after.index, 0).encode()
    for cursor in (here, None):
        page = await list_features(session, sae, replace(UNLABELLED, cursor=cursor, limit=1), with_examples=False)
        if page.rows:
            return page.rows[0] if page.rows[0].index != after.index else None
    return None


async def filter_by_density(
    session: AsyncSession, sae: SaeDetail, numbers: Collection[int], low: float | None, high: float | None
) -> set[int]:
    """Return those of these features whose density is from `low` to `high`; None means no bound."""
    if sae.index is None:
        return set()
    wanted = select(Feature.number).where(
        Feature.index_id == sae.index.id, in_array(Feature.number, numbers), *_between(Feature.density, low, high)
    )
    return set(await session.scalars(wanted))


async def _shown(
    session: AsyncSession, sae: SaeDetail, features: Sequence[Row[Any]], *, with_examples: bool, q: str = ""
) -> tuple[FeatureRow, ...]:
    """Return rows of `_LISTED` with what a list shows: tokens, labels, examples, and the match of a search for `q`."""
    numbers = [feature.number for feature in features]
    tokens = await get_tokens(session, sae.model.id, chain.from_iterable(row.top_token_ids for row in features))
    examples = await best_examples(session, sae, numbers) if with_examples else {}
    labels = await label_summaries(session, sae.id, numbers)
    suggested = await suggested_texts(session, sae.id, [number for number in numbers if number not in labels])
    effects = await effect_summaries(session, sae.id, numbers)
    top = {feature.number: top_tokens(feature, tokens) for feature in features}
    found = await feature_matches(session, sae, q, top) if q else {}
    return tuple(
        FeatureRow(
            index=feature.number,
            density=feature.density,
            count=feature._mapping["count"],
            max=feature.max,
            mean=feature.mean,
            coherence=feature.coherence,
            histogram=tuple(feature.histogram),
            top_tokens=top[feature.number],
            example=examples.get(feature.number),
            label=labels.get(feature.number),
            health=tuple(feature.health),
            match=found.get(feature.number),
            effect=effects.get(feature.number),
            suggestion=suggested.get(feature.number),
        )
        for feature in features
    )


async def pages(
    sessions: async_sessionmaker[AsyncSession], sae: SaeDetail, filter: FeatureFilter, first: FeaturePage
) -> AsyncIterator[FeaturePage]:
    """Yield this page and all that follow, without examples, each read in a transaction of its own.

    Raises:
        Unavailable: the index was replaced meanwhile; the remaining pages would be of another index.
    """
    page, filter = first, replace(filter, q=first.corrected or filter.q)  # so that it is corrected only once
    while True:
        yield page
        if page.next_cursor is None:
            return
        async with transaction(sessions) as session:
            now = await get_sae(session, sae.slug)
            if now is None or now.index is None or sae.index is None or now.index.id != sae.index.id:
                raise Unavailable("The index was replaced while its features were read: start again.")
            page = await list_features(session, sae, replace(filter, cursor=page.next_cursor), with_examples=False)


_LISTED: tuple[Any, ...] = (
    Feature.number,
    Feature.density,
    Feature.count,
    Feature.max,
    Feature.mean,
    Feature.coherence,
    Feature.histogram,
    Feature.top_token_ids,
    Feature.top_token_counts,
    Feature.top_token_shares,
    Feature.top_token_means,
    Feature.health,
)
_THESE = select(*_LISTED).where(Feature.index_id == bindparam("index"), in_array(Feature.number, "numbers"))
_SORTS: dict[str, Any] = {
    "coherence": func.coalesce(Feature.coherence, literal_column(NO_COHERENCE, REAL)),
    "density": Feature.density,
    "max": Feature.max,
    "mean": Feature.mean,
    "index": Feature.number,
    "effect": func.coalesce(FeatureEffect.ratio, literal(-1.0, REAL)),
}
"""Features without a coherence, or whose effect was not measured, come after all others, as if it was far below 0."""


def _check(sae: SaeDetail, filter: FeatureFilter) -> None:
    if filter.order(sae) not in get_args(Sort):
        raise Unprocessable(f"Features cannot be sorted by that: choose one of {', '.join(get_args(Sort))}.")
    if filter.order(sae) == "match" and not filter.q.strip():
        raise Unprocessable("Features are sorted by match in a search only: give q, or choose another order.")
    if filter.effect not in (None, *get_args(EffectFilter)):
        raise Unprocessable("Features can be filtered by effect as used or measured.")
    if filter.label not in (None, *get_args(LabelFilter)):
        raise Unprocessable("Features can be filtered by label as labelled or unlabelled.")
    if filter.label == "unlabelled" and (filter.author or filter.category):
        raise Unprocessable("A feature without labels has no label of an author or a category: drop one of the two.")
    if filter.health is not None and filter.health not in HEALTH_FLAGS:
        raise Unprocessable(f"There is no such health flag: choose one of {', '.join(HEALTH_FLAGS)}.")
    if filter.topic and sae.index is not None and filter.topic not in sae.index.topics:
        known = ", ".join(sae.index.topics[:20]) or "none at all"
        raise Unprocessable(f"The corpus of this index has no topic “{filter.topic[:40]}”. It has {known}.")
    if filter.limit not in range(1, MAX_LIMIT + 1):
        raise Unprocessable(f"A page holds 1 to {MAX_LIMIT} features.")
    check_range("A density", filter.min_density, filter.max_density)
    check_range("A maximum", filter.min_max, filter.max_max)
    for text in (filter.q, filter.token, filter.promotes, filter.topic, filter.author, filter.category):
        if len(text) > MAX_QUERY:
            raise Unprocessable(
                f"A text to search for has at most {MAX_QUERY} characters; this one has {len(text):,}: shorten it."
            )
        if not storable(text):
            raise Unprocessable("A text to search for has no NUL and no half of a surrogate pair: remove them.")


def check_range(what: str, low: float | None, high: float | None) -> None:
    """Check bounds of a range.

    Raises:
        Unprocessable: a bound is not a finite number from 0 up, or the lower one is above the upper one.
    """
    for bound in (low, high):
        if bound is not None and not (math.isfinite(bound) and bound >= 0):
            raise Unprocessable(f"{what} is a number from 0 up.")
    if low is not None and high is not None and low > high:
        raise Unprocessable(f"{what} cannot be both at least {low:g} and at most {high:g}: swap the two.")


async def _conditions(session: AsyncSession, sae: SaeDetail, filter: FeatureFilter) -> list[ColumnElement[bool]]:
    """Return the conditions of the filter except search and labels."""
    assert sae.index is not None
    conditions = _between(Feature.density, filter.min_density, filter.max_density)
    conditions += _between(Feature.max, filter.min_max, filter.max_max)
    if filter.health is not None:
        conditions.append(_overlap(Feature.health, [filter.health]))
    if filter.topic:
        conditions.append(_overlap(Feature.topics, [sae.index.topics.index(filter.topic)]))
    for column, spelling in ((Feature.top_token_ids, filter.token), (Feature.promoted_ids, filter.promotes)):
        if spelling:
            conditions.append(_overlap(column, await tokens_spelled(session, sae.model.id, spelling)))
    if filter.effect:
        own = aliased(FeatureEffect)  # the list may be sorted by the table itself
        measured = exists().where(own.sae_id == sae.id, own.feature == Feature.number)
        conditions.append(measured.where(own.low > 1) if filter.effect == "used" else measured)
    return conditions


def _between(column: InstrumentedAttribute[float], low: float | None, high: float | None) -> list[ColumnElement[bool]]:
    conditions: list[ColumnElement[bool]] = [] if low is None else [column >= low]
    return conditions if high is None else [*conditions, column <= high]


def _overlap(column: InstrumentedAttribute[Any], values: Sequence[Any]) -> ColumnElement[bool]:
    """True if an array has one of the values; false without values."""
    return column.bool_op("&&")(literal(list(values), column.type)) if values else false()


async def _read_page(
    session: AsyncSession,
    sae: SaeDetail,
    filter: FeatureFilter,
    conditions: Sequence[ColumnElement[bool]],
    cursor: Cursor | None,
) -> Sequence[Row[Any]]:
    """Read the features of this page, and one more if there is a next page."""
    tokens = await _matching_tokens(session, sae, filter, conditions) if filter.order(sae) == "match" else ()
    rows: Sequence[Row[Any]] = (await session.execute(_page(sae, filter, conditions, cursor, tokens))).all()
    return rows


async def _matching_tokens(
    session: AsyncSession, sae: SaeDetail, filter: FeatureFilter, conditions: Sequence[ColumnElement[bool]]
) -> list[int]:
    """Return the ids of the tokens that match a search, among the top tokens of the features that it finds.

    They are matched here, because Postgres cannot read tokens that are not valid UTF-8.
    """
    assert sae.index is not None
    each = select(func.unnest(Feature.top_token_ids)).distinct()
    ids = set(await session.scalars(each.where(Feature.index_id == sae.index.id, *conditions, *_words(sae, filter))))
    tokens, wanted = await get_tokens(session, sae.model.id, ids), terms(filter.q)
    return sorted(number for number in ids if token_matches(tokens[number].bytes, wanted))


def _page(
    sae: SaeDetail,
    filter: FeatureFilter,
    conditions: Sequence[ColumnElement[bool]],
    cursor: Cursor | None,
    tokens: Sequence[int],
) -> Select[Any]:
    """Select the features of a page; `tokens` are those that match a search.

    They are found by number first: an index of few columns then suffices for all but the rows that are shown. The
    number breaks ties in the same direction, so that one index serves both directions. A search finds its features all
    at once, in no order, and so counts them with the first page.
    """
    assert sae.index is not None
    own = Feature.index_id == sae.index.id
    page = _numbers(sae, filter, conditions, cursor, tokens).subquery()
    rows = select(*_LISTED, page.c.total, page.c.key).join(page, page.c.number == Feature.number)
    return rows.where(own).order_by(*_ordered(filter, page.c.key, page.c.number))


def _numbers(
    sae: SaeDetail,
    filter: FeatureFilter,
    conditions: Sequence[ColumnElement[bool]],
    cursor: Cursor | None,
    tokens: Sequence[int],
) -> Select[Any]:
    """Select the numbers of a page's features and of one more, with their total and what they are sorted by."""
    assert sae.index is not None
    own = Feature.index_id == sae.index.id
    total = func.count().over() if filter.q.strip() and cursor is None else literal(0)
    key, source = _key(sae, filter, tokens)
    wanted = select(Feature.number, total.label("total"), key.label("key")).select_from(source)
    wanted = wanted.where(own, *conditions, *_words(sae, filter))
    if filter.label == "unlabelled":
        wanted = wanted.where(~_labelled(sae, filter))
    elif filter.label or filter.author or filter.category:
        wanted = wanted.where(_labelled(sae, filter))
    if cursor is not None:
        here, last = tuple_(key, Feature.number), tuple_(cast(cursor.value, key.type), cursor.number)
        wanted = wanted.where(here < last if filter.descending else here > last)
    return wanted.order_by(*_ordered(filter, key, Feature.number)).limit(filter.limit + 1)


def _key(sae: SaeDetail, filter: FeatureFilter, tokens: Sequence[int]) -> tuple[ColumnElement[Any], FromClause]:
    """Return what the list is sorted by, and the tables that have it."""
    features: FromClause = Feature.__table__
    if filter.order(sae) == "effect":
        own = and_(FeatureEffect.sae_id == sae.id, FeatureEffect.feature == Feature.number)
        features = features.outerjoin(FeatureEffect.__table__, own)
    if filter.order(sae) != "match":
        return _SORTS[filter.order(sae)], features
    score, labels = match_score(sae.id, filter.q.strip(), tokens)
    return score, features.outerjoin(labels, labels.c.feature == Feature.number)


def _ordered(filter: FeatureFilter, *keys: Any) -> list[ColumnElement[Any]]:
    return [key.desc() if filter.descending else key.asc() for key in keys]


async def _total(
    session: AsyncSession, sae: SaeDetail, filter: FeatureFilter, conditions: Sequence[ColumnElement[bool]]
) -> int:
    """Count the features that pass a filter without a search.

    Those without a label are counted as the rest: testing each feature for no label would take ten times as long.
    """
    assert sae.index is not None
    passing = select(func.count()).select_from(Feature).where(Feature.index_id == sae.index.id, *conditions)
    labelled = passing.where(_labelled(sae, filter))
    if filter.label == "labelled" or filter.author or filter.category:
        return await session.scalar(labelled) or 0
    total = await session.scalar(passing) if conditions else sae.indexed
    return (total or 0) - (await session.scalar(labelled) or 0 if filter.label == "unlabelled" else 0)


def _cursor(sae: SaeDetail, filter: FeatureFilter, last: Row[Any], total: int) -> str:
    return Cursor(filter.order(sae), filter.descending, last.key, last.number, total).encode()


def _labelled(sae: SaeDetail, filter: FeatureFilter) -> ColumnElement[bool]:
    """True if the feature has a submitted label, of the filter's author and category if it has them."""
    of_feature = exists().where(Label.sae_id == sae.id, Label.feature == Feature.number, submitted)
    if filter.author:
        of_feature = of_feature.where(Label.author == filter.author)
    if filter.category:
        of_feature = of_feature.where(_overlap(Label.categories, [filter.category]))
    return of_feature


def _words(sae: SaeDetail, filter: FeatureFilter) -> list[ColumnElement[bool]]:
    query = filter.q.strip()
    return [matches(sae.id, query)] if query else []
