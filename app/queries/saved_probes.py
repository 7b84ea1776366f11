"""Saved probes."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.tables import SavedProbe

Fields = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class SavedProbeView:
    """A saved probe: names and values of its form."""

    public_id: str
    title: str
    author: str
    owner_id: int
    fields: tuple[tuple[str, str], ...]
    created_at: datetime


async def add_saved_probe(
    session: AsyncSession, sae_id: int, public_id: str, title: str, author: str, owner_id: int, fields: Fields
) -> None:
    """Store a probe."""
    row = {"public_id": public_id, "sae_id": sae_id, "title": title, "author": author, "owner_id": owner_id}
    await session.execute(insert(SavedProbe).values(**row, fields=[list(field) for field in fields]))


async def list_saved_probes(session: AsyncSession, sae_id: int, limit: int) -> list[SavedProbeView]:
    """Return the newest saved probes of an SAE."""
    newest = select(SavedProbe).where(SavedProbe.sae_id == sae_id).order_by(SavedProbe.id.desc()).limit(limit)
    return [_view(row) for row in await session.scalars(newest)]


async def get_saved_probe(session: AsyncSession, sae_id: int, public_id: str) -> SavedProbeView | None:
    """Return one saved probe of an SAE."""
    own = SavedProbe.sae_id == sae_id, SavedProbe.public_id == public_id
    row = await session.scalar(select(SavedProbe).where(*own))
    return None if row is None else _view(row)


async def delete_saved_probe(session: AsyncSession, sae_id: int, public_id: str) -> bool:
    """Delete one; True if it was there."""
    own = SavedProbe.sae_id == sae_id, SavedProbe.public_id == public_id
    gone = await session.scalar(delete(SavedProbe).where(*own).returning(SavedProbe.id))
    return gone is not None


def _view(row: SavedProbe) -> SavedProbeView:
    fields = tuple((str(name), str(value)) for name, value in row.fields)
    return SavedProbeView(row.public_id, row.title, row.author, row.owner_id, fields, row.created_at)
