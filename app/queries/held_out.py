"""What the tests of labels read: the text of held-out sequences, and which sequences a feature's examples show."""

from collections.abc import Iterable, Sequence

from sqlalchemy import ARRAY, Integer, bindparam, func, literal, select
from sqlalchemy.ext.asyncio import AsyncSession

from app import tables
from app.queries.saes import IndexInfo
from app.queries.sql.expressions import in_array
from app.tables import ExampleBand, Feature, Token


async def example_sequences(session: AsyncSession, index: IndexInfo, feature: int) -> set[int]:
    """Return the sequences that a feature's stored examples are from."""
    found = await session.scalars(
        select(func.unnest(ExampleBand.sequences)).where(
            ExampleBand.index_id == index.id, ExampleBand.feature == feature
        )
    )
    return set(found)


async def near_and_bands(session: AsyncSession, index: IndexInfo, feature: int) -> tuple[list[int], list[float]]:
    """Return the features of the nearest decoder directions, nearest first, and the edges of the quantile bands."""
    columns = Feature.__table__.c
    row = (
        await session.execute(
            select(columns.near, columns.band_edges).where(Feature.index_id == index.id, Feature.number == feature)
        )
    ).one_or_none()
    return ([], []) if row is None else (list(row.near or ()), list(row.band_edges))


async def sequence_tokens(session: AsyncSession, index: IndexInfo, numbers: Iterable[int]) -> dict[int, list[int]]:
    """Return the token ids of sequences, without padding."""
    rows = await session.execute(
        select(tables.Sequence.number, tables.Sequence.token_ids).where(
            tables.Sequence.set_id == index.sequence_set.id, in_array(tables.Sequence.number, numbers)
        )
    )
    return {number: list(token_ids) for number, token_ids in rows}


async def sequences_with(
    session: AsyncSession, index: IndexInfo, numbers: Sequence[int], token_ids: Iterable[int], *, limit: int
) -> dict[int, list[int]]:
    """Return those of the sequences that hold one of the tokens, in the order of `numbers`, up to a limit."""
    wanted = literal(list(token_ids), ARRAY(Integer))
    rows = await session.execute(
        select(tables.Sequence.number, tables.Sequence.token_ids)
        .where(
            tables.Sequence.set_id == index.sequence_set.id,
            in_array(tables.Sequence.number, numbers),
            tables.Sequence.token_ids.op("&&")(wanted),
        )
        .order_by(func.array_position(bindparam("order", list(numbers), ARRAY(Integer)), tables.Sequence.number))
        .limit(limit)
    )
    return {number: list(token_ids) for number, token_ids in rows}


async def special_tokens(session: AsyncSession, model_id: int) -> set[int]:
    """Return the special tokens of a model."""
    return set(await session.scalars(select(Token.id).where(Token.model_id == model_id, Token.special)))
