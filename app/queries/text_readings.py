"""Readings of text sets by SAEs, and the pooled activations of their features."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.queries.sql.copy import copy_rows
from app.tables import Sae, TextSet, TextSetFeature, TextSetReading


@dataclass(frozen=True, slots=True, kw_only=True)
class NewReading:
    """A reading that is on disk."""

    sae_id: int
    set_id: int
    max_tokens: int
    key: str
    """Of the folder under `readings/`."""
    set_hash: str
    texts: int
    tokens: int
    truncated: int
    """Texts that were longer than `max_tokens`."""
    note: str
    run_id: int | None


@dataclass(frozen=True, slots=True)
class ReadingView:
    """A reading of a set by an SAE."""

    id: int
    sae: str
    set_name: str
    max_tokens: int
    key: str
    texts: int
    tokens: int
    truncated: int
    note: str
    read_at: datetime


async def put_reading(
    session: AsyncSession, new: NewReading, rows: Iterable[tuple[int, Sequence[int], Sequence[float]]]
) -> int:
    """Store a reading, in place of an earlier one, and return its id.

    `rows` are features that are active anywhere, ascending: texts on which they are, and the maximum on each.
    """
    await session.execute(select(Sae.id).where(Sae.id == new.sae_id).with_for_update())
    await session.execute(
        delete(TextSetReading).where(
            TextSetReading.sae_id == new.sae_id,
            TextSetReading.set_id == new.set_id,
            TextSetReading.max_tokens == new.max_tokens,
        )
    )
    row = TextSetReading(**asdict(new))
    session.add(row)
    await session.flush()
    columns = ("reading_id", "feature", "numbers", "maxima")
    await copy_rows(session, TextSetFeature, columns, ((row.id, *values) for values in rows))
    return row.id


async def get_reading(session: AsyncSession, sae_id: int, set_id: int, max_tokens: int) -> ReadingView | None:
    """Return the reading of a set by an SAE, None if there is none."""
    found = await _readings(
        session,
        TextSetReading.sae_id == sae_id,
        TextSetReading.set_id == set_id,
        TextSetReading.max_tokens == max_tokens,
    )
    return next(iter(found), None)


async def readings_of_sae(session: AsyncSession, sae_id: int) -> list[ReadingView]:
    """Return the readings by an SAE, by set; of a set that was read at several lengths, the longest first."""
    return await _readings(session, TextSetReading.sae_id == sae_id)


async def readings_of_set(session: AsyncSession, set_id: int) -> list[ReadingView]:
    """Return the readings of a set, by SAE."""
    return await _readings(session, TextSetReading.set_id == set_id)


async def all_readings(session: AsyncSession) -> list[ReadingView]:
    """Return all readings."""
    return await _readings(session)


async def _readings(session: AsyncSession, *conditions: object) -> list[ReadingView]:
    query = (
        select(TextSetReading, Sae.slug, TextSet.name)
        .join(Sae, Sae.id == TextSetReading.sae_id)
        .join(TextSet, TextSet.id == TextSetReading.set_id)
        .where(*conditions)  # type: ignore[arg-type]
        .order_by(Sae.slug, TextSet.name, TextSetReading.max_tokens.desc())
    )
    return [
        ReadingView(
            id=row.id,
            sae=sae,
            set_name=name,
            max_tokens=row.max_tokens,
            key=row.key,
            texts=row.texts,
            tokens=row.tokens,
            truncated=row.truncated,
            note=row.note,
            read_at=row.read_at,
        )
        for row, sae, name in await session.execute(query)
    ]


async def feature_on_texts(session: AsyncSession, reading_id: int, feature: int) -> dict[int, float]:
    """Return a feature's largest activation on each text on which it is active, by the text's number."""
    row = await session.get(TextSetFeature, (reading_id, feature))
    return {} if row is None else dict(zip(row.numbers, row.maxima, strict=True))
