"""Examples: sequences of the corpus in which a feature is active."""

from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, islice, pairwise

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from app import tables
from app.errors import Unprocessable
from app.queries.expressions import among
from app.queries.models import TokenInfo, get_tokens
from app.queries.saes import SaeDetail
from app.tables import ExampleBand

BANDS = 5
"""Quantile bands of the non-zero activations, 1 the weakest; band 0 holds the top examples."""

MAX_LIMIT = 100


@dataclass(frozen=True, slots=True)
class ExampleToken:
    """One token of an example with the feature's activation on it; only counted tokens can have one above 0."""

    id: int
    bytes: bytes
    special: bool
    activation: float


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
    `start` in the sequence, so the example's own token is `tokens[position - start]`.
    """

    band: int
    rank: int
    sequence: int
    position: int
    activation: float
    document: DocumentInfo | None
    start: int
    tokens: tuple[ExampleToken, ...]


async def get_examples(
    session: AsyncSession, sae: SaeDetail, feature: int, *, band: int | None = None, limit: int = MAX_LIMIT
) -> list[ExampleView]:
    """Examples of a feature by band and rank, top examples first; `limit` is for each band.

    Raises:
        Unprocessable: no such band, or a limit that is not possible.
    """
    if band is not None and band not in range(BANDS + 1):
        raise Unprocessable(f"There is no band {band}: 0 holds the top examples, 1 to {BANDS} the quantile bands.")
    if limit not in range(1, MAX_LIMIT + 1):
        raise Unprocessable(f"A limit of {limit} examples is not possible: ask for 1 to {MAX_LIMIT}.")
    if sae.index is None or feature not in range(sae.d_sae):
        return []
    query = select(ExampleBand).where(ExampleBand.index_id == sae.index.id, ExampleBand.feature == feature)
    if band is not None:
        query = query.where(ExampleBand.band == band)
    rows = await session.scalars(query.order_by(ExampleBand.band))
    return await _views(session, sae, [example for row in rows for example in islice(_unpack(row), limit)])


async def best_examples(
    session: AsyncSession, sae: SaeDetail, features: Collection[int], *, before: int = 12, after: int = 12
) -> dict[int, ExampleView]:
    """The strongest example of each of these features, cut to a window of tokens around its position."""
    if sae.index is None:
        return {}
    rows = await session.scalars(
        select(ExampleBand).where(
            ExampleBand.index_id == sae.index.id, among(ExampleBand.feature, features), ExampleBand.band == 0
        )
    )
    examples = [next(_unpack(row)) for row in rows]
    views = await _views(session, sae, examples, before=before, after=after)
    return {example.feature: view for example, view in zip(examples, views, strict=True)}


@dataclass(frozen=True, slots=True)
class _Example:
    """One example taken out of its band, with the feature's non-zero activations by position."""

    feature: int
    band: int
    rank: int
    sequence: int
    position: int
    activation: float
    activations: dict[int, float]


def _unpack(row: ExampleBand) -> Iterator[_Example]:
    """The examples of a band, best first."""
    positions, values = row.active_positions, row.active_values
    bounds = pairwise(accumulate(row.lengths, initial=0))
    examples = zip(row.sequences, row.positions, row.activations, bounds, strict=True)
    for rank, (sequence, position, activation, (start, end)) in enumerate(examples):
        activations = dict(zip(positions[start:end], values[start:end], strict=True))
        yield _Example(row.feature, row.band, rank, sequence, position, activation, activations)


@dataclass(frozen=True, slots=True)
class _Excerpt:
    """An example with the part of its sequence that is shown, and its document's number (-1 for none)."""

    example: _Example
    start: int
    token_ids: Sequence[int]
    document: int


async def _views(
    session: AsyncSession,
    sae: SaeDetail,
    examples: Sequence[_Example],
    *,
    before: int | None = None,
    after: int | None = None,
) -> list[ExampleView]:
    """`examples` with that many tokens before and after their own; None for all."""
    assert sae.index is not None
    sequences = await _sequences(session, sae.index.sequence_set.id, {example.sequence for example in examples})
    excerpts = [_excerpt(example, sequences[example.sequence], before, after) for example in examples]
    tokens = await get_tokens(session, sae.model.id, {i for excerpt in excerpts for i in excerpt.token_ids})
    documents = await _documents(session, sae.index.sequence_set.id, {excerpt.document for excerpt in excerpts})
    return [
        ExampleView(
            band=excerpt.example.band,
            rank=excerpt.example.rank,
            sequence=excerpt.example.sequence,
            position=excerpt.example.position,
            activation=excerpt.example.activation,
            document=documents.get(excerpt.document),
            start=excerpt.start,
            tokens=tuple(_with_activations(excerpt, tokens)),
        )
        for excerpt in excerpts
    ]


def _excerpt(example: _Example, sequence: tables.Sequence, before: int | None, after: int | None) -> _Excerpt:
    start = 0 if before is None else max(0, example.position - before)
    end = None if after is None else example.position + after + 1
    run = bisect_right(sequence.document_starts, example.position) - 1
    return _Excerpt(example, start, sequence.token_ids[start:end], sequence.document_numbers[run] if run >= 0 else -1)


def _with_activations(excerpt: _Excerpt, tokens: dict[int, TokenInfo]) -> Iterator[ExampleToken]:
    for position, token_id in enumerate(excerpt.token_ids, excerpt.start):
        token = tokens[token_id]
        activation = excerpt.example.activations.get(position, 0.0)
        yield ExampleToken(token.id, token.bytes, token.special, activation)


async def _sequences(session: AsyncSession, set_id: int, numbers: Iterable[int]) -> dict[int, tables.Sequence]:
    rows = await session.scalars(
        select(tables.Sequence).where(tables.Sequence.set_id == set_id, among(tables.Sequence.number, numbers))
    )
    return {row.number: row for row in rows}


async def _documents(session: AsyncSession, set_id: int, numbers: Iterable[int]) -> dict[int, DocumentInfo]:
    rows = await session.execute(
        select(tables.Document.number, tables.Document.title, tables.Document.topic).where(
            tables.Document.set_id == set_id, among(tables.Document.number, numbers)
        )
    )
    return {number: DocumentInfo(number, title, topic) for number, title, topic in rows}
