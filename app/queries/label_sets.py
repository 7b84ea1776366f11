"""Label sets: their rules, the versions of their guidelines, and the features that they are about."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.queries.sql.pg_safe import is_id
from app.tables import Guideline, LabelSet

DEFAULT = "default"
"""Name of the set of each SAE that takes any feature and has no guideline."""


@dataclass(frozen=True, slots=True)
class LabelSetView:
    """A label set; `guideline` is the newest version's number, None if it has no guideline."""

    id: int
    sae_id: int
    name: str
    needed: int
    blind: bool
    order: str
    scope: Mapping[str, Any]
    created_by: int | None
    created_at: datetime
    closed_at: datetime | None
    guideline: int | None

    @property
    def withholds(self) -> bool:
        """True if its labels are hidden from who has none of their own."""
        return self.blind and self.closed_at is None

    @property
    def takes_any(self) -> bool:
        """True if it is about any feature of its SAE."""
        return not self.scope


_newest = (
    select(func.max(Guideline.version)).where(Guideline.set_id == LabelSet.id).correlate(LabelSet).scalar_subquery()
)
_SETS = select(LabelSet, _newest.label("guideline")).execution_options(populate_existing=True)


async def get_set(session: AsyncSession, set_id: int) -> LabelSetView | None:
    """Return a set."""
    if not is_id(set_id):
        return None
    row = (await session.execute(_SETS.where(LabelSet.id == set_id))).one_or_none()
    return None if row is None else _view(*row)


async def find_set(session: AsyncSession, sae_id: int, name: str) -> LabelSetView | None:
    """Return the set of this name of an SAE."""
    row = (await session.execute(_SETS.where(LabelSet.sae_id == sae_id, LabelSet.name == name))).one_or_none()
    return None if row is None else _view(*row)


async def ensure_set(
    session: AsyncSession, sae_id: int, name: str = DEFAULT, *, person_id: int | None = None
) -> LabelSetView:
    """Return the set of this name, which is made if there is none: one that takes any feature."""
    found = await find_set(session, sae_id, name)
    if found is None:
        new = insert(LabelSet).values(sae_id=sae_id, name=name, created_by=person_id)
        await session.execute(new.on_conflict_do_nothing())
        found = await find_set(session, sae_id, name)
    assert found is not None
    return found


def _view(row: LabelSet, guideline: int | None) -> LabelSetView:
    return LabelSetView(
        id=row.id,
        sae_id=row.sae_id,
        name=row.name,
        needed=row.needed,
        blind=row.blind,
        order=row.label_order,
        scope=row.scope,
        created_by=row.created_by,
        created_at=row.created_at,
        closed_at=row.closed_at,
        guideline=guideline,
    )
