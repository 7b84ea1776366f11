"""Monitors of answers that are being written."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import BadParameter, Conflict, NotFound
from app.services.monitors import find_monitor, usable_file

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
        BadParameter: one does not exist, is paused, has lost its model, or is named twice.
    """
    found: list[UsableMonitor] = []
    for reference in references:
        try:
            monitor = await find_monitor(session, reference)
            file = await usable_file(session, monitor)
        except NotFound as error:
            raise BadParameter(str(error), _PARAM, "monitor_not_found") from None
        except Conflict as error:
            raise BadParameter(str(error), _PARAM) from None
        if any(other.id == monitor.id for other in found):
            raise BadParameter(f"The monitor {monitor.name} is named twice.", _PARAM)
        found.append(UsableMonitor(monitor.id, monitor.name, file))
    return found
