"""Monitors of answers that are being written: which may run, and what is kept of what they find."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import BadParameter, Conflict, NotFound
from app.queries import monitors as queries
from app.queries.models import ModelInfo, TokenInfo, get_tokens
from app.queries.monitors import MonitorView, NewAlert
from app.services.inference_messages import LiveAlert
from app.services.monitors import find_monitor, usable_file
from app.services.tokens import api_texts

_PARAM = "seesae.monitors"


@dataclass(frozen=True, slots=True)
class UsableMonitor:
    """A monitor that may run on a model; `file` is that of `sae_core.monitoring`."""

    id: int
    name: str
    keep_text: bool
    file: Mapping[str, Any]


async def usable_monitors(
    session: AsyncSession, references: Sequence[str | int], model: ModelInfo
) -> list[UsableMonitor]:
    """Return monitors by their names or ids, each once.

    Raises:
        BadParameter: one does not exist, is paused, or is of another model.
    """
    found = [await _find(session, reference) for reference in references]
    return [await _usable(session, monitor, model) for monitor in {one.id: one for one in found}.values()]


async def _find(session: AsyncSession, reference: str | int) -> MonitorView:
    try:
        return await find_monitor(session, reference)
    except NotFound as error:
        raise BadParameter(str(error), _PARAM, "monitor_not_found") from None


async def _usable(session: AsyncSession, monitor: MonitorView, model: ModelInfo) -> UsableMonitor:
    if monitor.model_id not in (None, model.id):
        raise BadParameter(f"The monitor {monitor.name} is of {monitor.model}, not of {model.name}.", _PARAM)
    try:
        file = await usable_file(session, monitor)
    except Conflict as error:
        raise BadParameter(str(error), _PARAM, "monitor_not_usable") from None
    # The scores of the calibrations are for drift, and would be most of what is sent; of live texts the rest is used.
    live = file["live"] and {**file["live"], "scores": ""}
    used = {**file, "name": monitor.name, "threshold": monitor.threshold, "calibration": None, "live": live}
    return UsableMonitor(monitor.id, monitor.name, monitor.keep_text, used)


async def keep_findings(
    session: AsyncSession,
    monitors: Sequence[UsableMonitor],
    model: ModelInfo,
    scores: Mapping[str, float],
    alerts: Sequence[LiveAlert],
    *,
    place: str,
) -> None:
    """Keep the score of one answer by each monitor, and the alerts; their text only where the monitor keeps it.

    Args:
        session: its transaction.
        monitors: that watched.
        model: that wrote the answer.
        scores: of prompt and answer, by monitor.
        alerts: at most one per monitor.
        place: the id of the answer.
    """
    known = await get_tokens(session, model.id, {token for alert in alerts for _, token, _ in alert.tokens})
    by_name = {alert.monitor: alert for alert in alerts}
    for monitor in sorted(monitors, key=lambda one: one.id):  # in one order: each is locked until the end
        if monitor.name not in scores:
            continue
        alert = by_name.get(monitor.name)
        new = [] if alert is None else [_new_alert(alert, known, monitor.keep_text, place)]
        with suppress(NotFound):  # it was deleted meanwhile, and the answer goes on
            await queries.add_scores(session, monitor.id, [scores[monitor.name]], new, source="live")


def _new_alert(alert: LiveAlert, known: Mapping[int, TokenInfo], keep_text: bool, place: str) -> NewAlert:
    texts = api_texts([known[token].bytes for _, token, _ in alert.tokens])
    text = "".join(texts)
    tokens: list[dict[str, Any]] = [{"position": position, "value": value} for position, _, value in alert.tokens]
    if keep_text:
        tokens = [token | {"text": own} for token, own in zip(tokens, texts, strict=True)]
    return NewAlert(
        score=alert.score,
        threshold=alert.threshold,
        source="live",
        run_id=None,
        place=place,
        sha256=sha256(text.encode()).hexdigest(),
        text=text if keep_text else None,
        tokens=tokens,
    )
