"""Bias audits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.queries.sql.paging import one_page
from app.queries.sql.pg_safe import clean_json, clean_text
from app.tables import Audit, Person


@dataclass(frozen=True, slots=True)
class AuditSummary:
    """An audit in a list; `sae_id` is None once the SAE was deleted. `interval` is that of the score."""

    id: int
    sae_id: int | None
    sae: str
    on: str
    measure: str
    score: float
    interval: Sequence[float] | None
    pairs: int
    run_id: int | None
    owner_id: int
    owner: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class AuditView(AuditSummary):
    """An audit with what it found."""

    result: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewAudit:
    """An audit to store; `raw` are JSON lines."""

    sae_id: int
    sae: str
    on: str
    measure: str
    score: float
    result: Mapping[str, Any]
    raw: str
    run_id: int
    owner_id: int


async def put_audit(session: AsyncSession, new: NewAudit) -> int:
    """Store what a run found, in place of what an earlier attempt at the run stored; return its id."""
    row = {
        "sae_id": new.sae_id,
        "sae": new.sae,
        "on": new.on,
        "measure": new.measure,
        "score": new.score,
        "result": clean_json(new.result),
        "raw": clean_text(new.raw),
        "run_id": new.run_id,
        "owner_id": new.owner_id,
    }
    stored = insert(Audit).values(row).on_conflict_do_update(index_elements=["run_id"], set_=row).returning(Audit.id)
    number = await session.scalar(stored)
    assert number is not None  # inserted or updated
    return number


async def get_audit(session: AsyncSession, audit_id: int) -> AuditView | None:
    """Return an audit."""
    query = select(*_SUMMARY, Audit.result).join(Person).where(Audit.id == audit_id)
    row = (await session.execute(query)).one_or_none()
    return None if row is None else AuditView(*row)


async def list_audits(
    session: AsyncSession, *, limit: int, before: int | None = None, sae_id: int | None = None
) -> tuple[list[AuditSummary], int | None]:
    """Return the newest audits and where the next page begins; those older than `before`, of one SAE or all."""
    query = select(*_SUMMARY).join(Person).order_by(Audit.id.desc()).limit(limit + 1)
    if before is not None:
        query = query.where(Audit.id < before)
    if sae_id is not None:
        query = query.where(Audit.sae_id == sae_id)
    found, more = one_page([AuditSummary(*row) for row in await session.execute(query)], limit)
    return found, found[-1].id if more else None


async def raw_values(session: AsyncSession, audit_id: int) -> str | None:
    """Return the raw values of an audit as JSON lines."""
    return await session.scalar(select(Audit.raw).where(Audit.id == audit_id))


async def delete_audit(session: AsyncSession, audit_id: int) -> None:
    """Delete an audit."""
    await session.execute(delete(Audit).where(Audit.id == audit_id))


_SUMMARY = (
    Audit.id,
    Audit.sae_id,
    Audit.sae,
    Audit.on,
    Audit.measure,
    Audit.score,
    Audit.result["measure"]["interval"],
    Audit.result["measure"]["pairs"].as_integer(),
    Audit.run_id,
    Audit.owner_id,
    Person.name,
    Audit.created_at,
)
