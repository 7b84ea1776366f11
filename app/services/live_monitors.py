"""Monitors of answers that are being written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import BadParameter

_PARAM = "seesae.monitors"


@dataclass(frozen=True, slots=True)
class UsableMonitor:
    """A monitor with a threshold; `file` is that of `sae_core.monitoring`."""

    id: int
    name: str
    file: Mapping[str, Any]


async def usable_monitors(session: AsyncSession, references: Sequence[str | int]) -> list[UsableMonitor]:
    """Return monitors by their names or ids.

    Raises:
        BadParameter: one does not exist, or is named twice.
    """
    del session
    if references:
        raise BadParameter(f"There is no monitor “{str(references[0])[:80]}”.", _PARAM, "monitor_not_found")
    return []
