"""The text sets that an audit can be made on: those that SeeSAE knows, and those with pairs that people added."""

from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession

from app.queries.text_sets import list_text_sets
from app.services.audit_results import MEASURED_SETS
from app.services.builtin_sets import BUILTIN_SETS
from app.web.components.formatting import plural

_MOST = 200
"""Sets that a form offers, the newest."""


@dataclass(frozen=True, slots=True)
class AuditSet:
    """A set, and what is in it."""

    name: str
    about: str


async def audit_sets(session: AsyncSession) -> list[AuditSet]:
    """Return the sets that a form offers."""
    found, _ = await list_text_sets(session, limit=_MOST)
    others = [
        AuditSet(one.name, f"{plural(one.counts.pairs, 'pair')}; {one.description}" if one.description else "")
        for one in found
        if one.counts.pairs and one.name not in MEASURED_SETS
    ]
    return [*(AuditSet(name, BUILTIN_SETS[name].description) for name in MEASURED_SETS), *others]
