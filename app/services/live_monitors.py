"""Monitors of answers that are being written."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import BadParameter, Conflict, NotFound
from app.queries.monitors import NewAlert, add_scores
from app.services.inference_messages import LiveAlert
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


async def keep_live(
    session: AsyncSession,
    monitors: Sequence[UsableMonitor],
    *,
    scores: Mapping[str, float],
    alerts: Sequence[LiveAlert],
    answer: str,
) -> None:
    """Keep what monitors found on an answer: its scores when it is complete, alerts as they come, never its text.

    Args:
        session: of the request.
        monitors: of the answer.
        scores: of the whole text, by monitor; none before it is complete.
        alerts: those that are new.
        answer: id of the answer, which is all that tells alerts of one answer apart.
    """
    for monitor in monitors:
        fired = [
            NewAlert(
                score=alert.score,
                threshold=alert.threshold,
                source="live",
                run_id=None,
                place="answer" if alert.generated else "prompt",
                sha256=hashlib.sha256(answer.encode()).hexdigest(),
                text=None,
                tokens=[{"position": alert.position, "value": alert.score}],
            )
            for alert in alerts
            if alert.monitor == monitor.name
        ]
        own = [scores[monitor.name]] if monitor.name in scores else []
        if own or fired:
            await add_scores(session, monitor.id, own, fired, source="live")
