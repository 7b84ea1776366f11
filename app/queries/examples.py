"""Examples: sequences of the corpus in which a feature is active."""

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, groupby, islice, pairwise
from operator import attrgetter
from typing import Any, NamedTuple, overload

from sqlalchemy import (
    ColumnElement,
    Float,
    Integer,
    Select,
    bindparam,
    case,
    column,
    func,
    literal_column,
    select,
    true,
)
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.sql.expression import SQLColumnExpression

from app import tables
from app.errors import Unprocessable
from app.queries.models import Vocabulary, get_tokens
from app.queries.saes import SaeDetail
from app.queries.sql.expressions import in_array
from app.tables import ExampleBand, Feature
from sae_core.statistics.spec import BANDS

MAX_LIMIT = 100


class ExampleToken(NamedTuple):
    """One token of an example with the feature's activation on it; only counted tokens can have one above 0."""

    id: int
    bytes: bytes
    special: bool
    activation: float


class ExampleTokens(Sequence[ExampleToken]):
    """The tokens of an excerpt, each created on access: of a long sequence, a page shows one line.

    `ids` are theirs, the first of which stands at `start` in the sequence; `activations` are those above zero of the
    whole sequence, by position in it.
    """

    __slots__ = ("activations", "ids", "start", "vocabulary")

    def __init__(
        self, ids: Sequence[int], start: int, activations: Mapping[int, float], vocabulary: Vocabulary
    ) -> None:
        self.ids, self.start, self.activations, self.vocabulary = ids, start, activations, vocabulary

    def __len__(self) -> int:
        return len(self.ids)

    def active_places(self) -> list[int]:
        """Return the places among these tokens on which the feature is active."""
        return [position - self.start for position in self.activations if 0 <= position - self.start < len(self)]

    @overload
    def __getitem__(self, place: int) -> ExampleToken: ...
    @overload
    def __getitem__(self, place: slice) -> Sequence[ExampleToken]: ...
    def __getitem__(self, place: int | slice) -> ExampleToken | Sequence[ExampleToken]:
        if isinstance(place, slice):
            return [self[index] for index in range(*place.indices(len(self)))]
        token = self.vocabulary[self.ids[place]]
        position = self.start + (place if place >= 0 else place + len(self.ids))
        return ExampleToken(token.id, token.bytes, token.special, self.activations.get(position, 0.0))


@dataclass(frozen=True, slots=True)
class DocumentInfo:
    """The document that an example's token is from."""

    number: int
    title: str
    topic: str | None


@dataclass(frozen=True, slots=True)
class ExampleView:
    """One example: token `position` of corpus sequence `sequence`, among `tokens`.

    `tokens` is the whole sequence without padding, or in a list of features a window of it; its first token stands at
    `start` in the sequence, so the example's own token is `tokens[position - start]`. `document` is None where there is
    none, and where documents were not requested.
    """

    band: int
    rank: int
    sequence: int
    position: int
    activation: float
    document: DocumentInfo | None
    start: int
    tokens: ExampleTokens
    peak: float
    """The highest activation in its sequence."""


async def get_examples(
    session: AsyncSession,
    sae: SaeDetail,
    feature: int,
    *,
    band: int | None = None,
    limit: int = MAX_LIMIT,
    with_documents: bool = True,
) -> list[ExampleView]:
    """Return examples of a feature by band and rank, top examples first; `limit` is per band.

    Raises:
        Unprocessable: the band does not exist, or the limit is out of range.
    """
    if band is not None and band not in range(BANDS + 1):
        raise Unprocessable(f"There is no band {band}: 0 holds the top examples, 1 to {BANDS} the quantile bands.")
    if limit not in range(1, MAX_LIMIT + 1):
        raise Unprocessable(f"A limit of {limit} examples is not possible: ask for 1 to {MAX_LIMIT}.")
    if sae.index is None or feature not in range(sae.d_sae):
        return []
    wanted = list(range(BANDS + 1)) if band is None else [band]
    rows = await session.execute(_BANDS, {"index": sae.index.id, "feature": feature, "bands": wanted})
    examples = [example for row in rows for example in islice(_unpack(row), limit)]
    return await _views(session, sae, examples, with_documents=with_documents)


async def get_excerpts(
    session: AsyncSession, sae: SaeDetail, feature: int, *, before: int, after: int
) -> list[ExampleView]:
    """Return all examples of a feature as `get_examples` does, in one round trip, without documents.

    Of each sequence only a window is read: `before` tokens before the example's own, and `after` behind it.
    """
    if sae.index is None:
        return []
    parameters = {"index": sae.index.id, "set": sae.index.sequence_set.id, "feature": feature}
    rows = await session.execute(_EXCERPTS, {**parameters, "before": before, "after": after})
    excerpts = []
    for of_band in (list(group) for _, group in groupby(rows, key=attrgetter("band"))):
        bounds = pairwise(accumulate((row.length for row in of_band), initial=0))
        places, values = of_band[0].active_positions, of_band[0].active_values
        for row, (start, end) in zip(of_band, bounds, strict=True):
            active = dict(zip(places[start:end], values[start:end], strict=True))
            example = _Example(feature, row.band, row.rank - 1, row.sequence, row.position, row.activation, active)
            if row.token_ids is not None:
                excerpts.append(_Excerpt(example, max(0, row.position - before), row.token_ids))
    return await _cut_views(session, sae, excerpts)


def _excerpts() -> Select[Any]:
    """Select the examples of a feature, each with its window of the sequence; the first of a band has its arrays."""
    columns = (
        column("sequence", Integer),
        column("position", Integer),
        column("activation", Float),
        column("length", Integer),
    )
    arrays = (ExampleBand.sequences, ExampleBand.positions, ExampleBand.activations, ExampleBand.lengths)
    example = func.unnest(*arrays).table_valued(*columns, with_ordinality="rank", name="example").render_derived()
    of, is_first = example.c, example.c.rank == literal_column("1")
    return (
        select(
            ExampleBand.band,
            *of,
            case((is_first, ExampleBand.active_positions)).label("active_positions"),
            case((is_first, ExampleBand.active_values)).label("active_values"),
            tables.Sequence.token_ids[_window(of.position)].label("token_ids"),
        )
        .select_from(ExampleBand)
        .join(example, true())
        .outerjoin(
            tables.Sequence, (tables.Sequence.set_id == bindparam("set")) & (tables.Sequence.number == of.sequence)
        )
        .where(ExampleBand.index_id == bindparam("index"), ExampleBand.feature == bindparam("feature"))
        .order_by(ExampleBand.band, of.rank)
    )


def _window(position: SQLColumnExpression[int]) -> slice:
    """Return the tokens from `before` before a position to `after` behind it; arrays count from 1, positions from 0."""
    first = func.greatest(1, position - bindparam("before", type_=Integer) + 1)
    return slice(first, position + bindparam("after", type_=Integer) + 1)


_EXCERPTS = _excerpts()


@dataclass(frozen=True, slots=True)
class StoredExample:
    """One activation from an activation store, with all activations of its feature in the same sequence."""

    sequence: int
    position: int
    activation: float
    positions: list[int]
    values: list[float]


async def view_stored(
    session: AsyncSession, sae: SaeDetail, feature: int, band_edges: Sequence[float], stored: Iterable[StoredExample]
) -> list[ExampleView]:
    """Return activations from the store with the tokens and documents of their sequences, in the given order.

    Args:
        session: to read sequences with.
        sae: the store's SAE.
        feature: the feature that the activations are of.
        band_edges: of the feature; they give each activation its quantile band.
        stored: of the current index; activations in a sequence that the index lacks are left out.
    """
    examples = [
        _Example(
            feature=feature,
            band=bisect_left(band_edges[1:-1], example.activation) + 1,
            rank=rank,
            sequence=example.sequence,
            position=example.position,
            activation=example.activation,
            activations=dict(zip(example.positions, example.values, strict=True)),
        )
        for rank, example in enumerate(stored)
    ]
    return await _views(session, sae, examples, with_documents=True)


_BANDS = (
    select(ExampleBand.__table__)
    .where(
        ExampleBand.index_id == bindparam("index"),
        ExampleBand.feature == bindparam("feature"),
        in_array(ExampleBand.band, "bands"),
    )
    .order_by(ExampleBand.band)
)


async def top_examples(
    session: AsyncSession, sae: SaeDetail, features: Collection[int], count: int
) -> dict[int, list[ExampleView]]:
    """Return the `count` strongest examples per feature, best first, as whole sequences without documents."""
    if sae.index is None or not features:
        return {}
    rows = await session.execute(_TOP_BANDS, {"index": sae.index.id, "features": list(features)})
    examples = [example for row in rows for example in islice(_unpack(row), count)]
    views = await _views(session, sae, examples, with_documents=False)
    found: dict[int, list[ExampleView]] = {}
    for example, view in zip(examples, views, strict=True):
        found.setdefault(example.feature, []).append(view)
    return found


_TOP: ColumnElement[int] = literal_column("0")
_TOP_BANDS = select(ExampleBand.__table__).where(
    ExampleBand.index_id == bindparam("index"), in_array(ExampleBand.feature, "features"), ExampleBand.band == _TOP
)


async def best_examples(
    session: AsyncSession, sae: SaeDetail, features: Collection[int], *, before: int = 12, after: int = 12
) -> dict[int, ExampleView]:
    """Return the strongest example per feature, cut to a window of tokens around its position, without documents."""
    if sae.index is None or not features:
        return {}
    parameters = {"index": sae.index.id, "set": sae.index.sequence_set.id, "features": list(features)}
    rows = await session.execute(_BEST, {**parameters, "before": before, "after": after})
    return await _best_views(session, sae, rows, before)


async def neighbour_examples(
    session: AsyncSession,
    sae: SaeDetail,
    features: Collection[int],
    with_example: Collection[int],
    *,
    before: int = 12,
    after: int = 12,
) -> tuple[dict[int, tuple[int, ...]], dict[int, ExampleView]]:
    """Return the counts of features' histograms, and as `best_examples` the strongest example of some, at once."""
    if sae.index is None or not features:
        return {}, {}
    parameters = {"index": sae.index.id, "set": sae.index.sequence_set.id, "features": list(features)}
    parameters |= {"with_example": list(with_example), "before": before, "after": after}
    rows = (await session.execute(_NEIGHBOURS, parameters)).all()
    counts = {row.number: tuple(row.histogram) for row in rows}
    return counts, await _best_views(session, sae, [row[2:] for row in rows if row.token_ids is not None], before)


async def _best_views(
    session: AsyncSession, sae: SaeDetail, rows: Iterable[Sequence[Any]], before: int
) -> dict[int, ExampleView]:
    """Return rows of `_OF_BEST` by feature."""
    excerpts = [
        _Excerpt(
            _Example(feature, 0, 0, sequence, position, activation, dict(zip(positions, values, strict=True))),
            max(0, position - before),
            token_ids,
        )
        for feature, sequence, position, activation, positions, values, token_ids in rows
    ]
    views = await _cut_views(session, sae, excerpts)
    return {excerpt.example.feature: view for excerpt, view in zip(excerpts, views, strict=True)}


_OF_BEST = (
    ExampleBand.feature,
    ExampleBand.sequences[1],
    ExampleBand.positions[1],
    ExampleBand.activations[1],
    ExampleBand.active_positions[1 : ExampleBand.lengths[1]],
    ExampleBand.active_values[1 : ExampleBand.lengths[1]],
    tables.Sequence.token_ids[_window(ExampleBand.positions[1])].label("token_ids"),
)
"""The first example of a feature's band of top examples, with its window of the sequence."""
_ITS_SEQUENCE = (tables.Sequence.set_id == bindparam("set")) & (tables.Sequence.number == ExampleBand.sequences[1])
_BEST = (
    select(*_OF_BEST)
    .join(tables.Sequence, _ITS_SEQUENCE)
    .where(
        ExampleBand.index_id == bindparam("index"), in_array(ExampleBand.feature, "features"), ExampleBand.band == _TOP
    )
)
_NEIGHBOURS = (
    select(Feature.number, Feature.histogram, *_OF_BEST)
    .select_from(Feature)
    .outerjoin(
        ExampleBand,
        (ExampleBand.index_id == bindparam("index"))
        & (ExampleBand.feature == Feature.number)
        & (ExampleBand.band == _TOP)
        & in_array(ExampleBand.feature, "with_example"),
    )
    .outerjoin(tables.Sequence, _ITS_SEQUENCE)
    .where(Feature.index_id == bindparam("index"), in_array(Feature.number, "features"))
)


class _Example(NamedTuple):
    """One example taken out of its band, with the feature's non-zero activations by position."""

    feature: int
    band: int
    rank: int
    sequence: int
    position: int
    activation: float
    activations: dict[int, float]


def _unpack(row: Any) -> Iterator[_Example]:
    """Yield the examples of a band, best first."""
    positions, values = row.active_positions, row.active_values
    bounds = pairwise(accumulate(row.lengths, initial=0))
    examples = zip(row.sequences, row.positions, row.activations, bounds, strict=True)
    for rank, (sequence, position, activation, (start, end)) in enumerate(examples):
        activations = dict(zip(positions[start:end], values[start:end], strict=True))
        yield _Example(row.feature, row.band, rank, sequence, position, activation, activations)


class _Excerpt(NamedTuple):
    """An example with the part of its sequence that is shown."""

    example: _Example
    start: int
    token_ids: Sequence[int]


async def _views(
    session: AsyncSession, sae: SaeDetail, examples: Sequence[_Example], *, with_documents: bool
) -> list[ExampleView]:
    """Return `examples` with all tokens of their sequences."""
    assert sae.index is not None
    set_id = sae.index.sequence_set.id
    sequences = await _sequences(session, set_id, {example.sequence for example in examples})
    examples = [example for example in examples if example.sequence in sequences]
    tokens = await get_tokens(session, sae.model.id, set().union(*(row.token_ids for row in sequences.values())))
    numbers = [_document_number(sequences[example.sequence], example.position) for example in examples]
    documents = await _documents(session, set_id, set(numbers)) if with_documents else {}
    return [
        _view(_Excerpt(example, 0, sequences[example.sequence].token_ids), tokens, documents.get(number))
        for example, number in zip(examples, numbers, strict=True)
    ]


async def _cut_views(session: AsyncSession, sae: SaeDetail, excerpts: Sequence[_Excerpt]) -> list[ExampleView]:
    """Return excerpts with their tokens, without documents."""
    tokens = await get_tokens(session, sae.model.id, chain.from_iterable(excerpt.token_ids for excerpt in excerpts))
    return [_view(excerpt, tokens, None) for excerpt in excerpts]


def _view(excerpt: _Excerpt, tokens: Vocabulary, document: DocumentInfo | None) -> ExampleView:
    example = excerpt.example
    return ExampleView(
        band=example.band,
        rank=example.rank,
        sequence=example.sequence,
        position=example.position,
        activation=example.activation,
        document=document,
        start=excerpt.start,
        tokens=ExampleTokens(excerpt.token_ids, excerpt.start, example.activations, tokens),
        peak=max(example.activations.values(), default=0.0),
    )


def _document_number(sequence: Any, position: int) -> int:
    """Return the number of the document that a token is from; -1 for none."""
    run = bisect_right(sequence.document_starts, position) - 1
    return int(sequence.document_numbers[run]) if run >= 0 else -1


async def _sequences(session: AsyncSession, set_id: int, numbers: Iterable[int]) -> dict[int, Any]:
    """Return rows of the table `sequence` by number."""
    rows = await session.execute(_SEQUENCES, {"set": set_id, "numbers": list(numbers)})
    return {row.number: row for row in rows}


_SEQUENCES = select(tables.Sequence.__table__).where(
    tables.Sequence.set_id == bindparam("set"), in_array(tables.Sequence.number, "numbers")
)


async def _documents(session: AsyncSession, set_id: int, numbers: Iterable[int]) -> dict[int, DocumentInfo]:
    rows = await session.execute(
        select(tables.Document.number, tables.Document.title, tables.Document.topic).where(
            tables.Document.set_id == set_id, in_array(tables.Document.number, numbers)
        )
    )
    return {number: DocumentInfo(number, title, topic) for number, title, topic in rows}
