"""Texts that monitors score live. Scores are kept, texts only of alerts and only where the monitor says so."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import Unprocessable
from app.queries import monitors as queries
from app.queries.models import UNKNOWN, TokenInfo, get_model, get_tokens
from app.queries.monitors import AlertSource, MonitorView, NewAlert
from app.services.inference import InferenceClient
from app.services.inference_messages import ChatMessage, LiveMonitor, ModelRef, MonitorScore, ScoredText, ScoreRequest
from app.services.monitors import candidate_of, usable_file
from app.services.tokens import plain

MAX_TEXTS = 100
"""Texts per check."""
MAX_TEXT = 100_000
"""Characters of one text."""
Text = str | list[ChatMessage]


@dataclass(frozen=True, slots=True)
class CheckedText:
    """A text that a monitor scored. `values` are the scores of the watched tokens alone, None of other tokens."""

    score: float
    threshold: float
    alert: bool
    positions: Sequence[int]
    values: Sequence[float | None]
    tokens: Sequence[str]
    token_infos: Sequence[tuple[int, bytes, bool]]
    """Id, bytes, and whether it is special, of each token."""
    features: Sequence[tuple[int, float]]
    probe_score: float | None
    probe_threshold: float | None
    alert_id: int | None


async def check_texts(
    session: AsyncSession,
    inference: InferenceClient,
    monitor: MonitorView,
    texts: Sequence[Text],
    *,
    source: AlertSource = "check",
) -> list[CheckedText]:
    """Score texts with a monitor, and with the best linear probe beside it; keep scores and alerts.

    Raises:
        Conflict: the monitor is paused, or its model was deleted.
        NotFound: the monitor was deleted while it scored.
        Unprocessable: there is no text, or too much of it, or the model has no chat format.
        InferenceDown: the inference process does not answer.
    """
    if not 0 < len(texts) <= MAX_TEXTS:
        raise Unprocessable(f"Give 1 to {MAX_TEXTS} texts. `seesae monitor scan` takes as many as there are.")
    if any(len(words_of(text)) > MAX_TEXT for text in texts) or not all(words_of(text).strip() for text in texts):
        raise Unprocessable(f"Each text needs a word, and may have {MAX_TEXT:,} characters.")
    monitors = [LiveMonitor(name=monitor.candidate, file=dict(await usable_file(session, monitor)))]
    probe = _probe(monitor)
    if probe is not None and (file := await queries.monitor_file(session, monitor.id, probe["name"])) is not None:
        monitors.append(LiveMonitor(name=probe["name"], file=file))
    assert monitor.model_id is not None  # usable_file refuses it
    model = await get_model(session, monitor.model_id)
    assert model is not None  # the row refers to it
    await session.commit()  # the model may have to be loaded: no connection is held for that long
    request = ScoreRequest(
        model=ModelRef.of(model), monitors=monitors, texts=list(texts), max_tokens=monitor.figures["max_tokens"]
    )
    found = (await inference.score(request)).texts
    known = await get_tokens(session, model.id, {token for text in found for token in text.token_ids})
    names = {token: plain(info.bytes) for token, info in known.items()}
    alerts = [
        new_alert(monitor, text, scored, names, source=source)
        for text, scored in zip(texts, found, strict=True)
        if scored.scores[0].alert
    ]
    scores = [text.scores[0].score for text in found]
    ids = iter(
        await queries.add_scores(session, monitor.id, scores, alerts, source=source, candidate=monitor.candidate)
    )
    features = [pair["feature"] for pair in candidate_of(monitor)["features"]]
    order = monitors[0].file["detector"].get("features", features)
    return [
        _checked(monitor, scored, known, order, probe, next(ids) if scored.scores[0].alert else None)
        for scored in found
    ]


def words_of(text: Text) -> str:
    """Return the words of a text or a chat."""
    return text if isinstance(text, str) else "\n".join(message.content for message in text)


def new_alert(
    monitor: MonitorView,
    text: Text,
    scored: ScoredText,
    names: Mapping[int, str],
    *,
    source: AlertSource,
    run_id: int | None = None,
    place: str = "",
) -> NewAlert:
    """Return the alert of a text, with its words only where the monitor keeps them."""
    own = scored.scores[0]
    words = words_of(text)
    tokens: list[dict[str, Any]] = [
        {"position": position, "value": value} for position, value in zip(own.positions, own.values, strict=True)
    ]
    if monitor.keep_text:
        for token in tokens:
            token["text"] = names.get(scored.token_ids[token["position"]], "")
    return NewAlert(
        score=own.score,
        threshold=monitor.threshold,
        source=source,
        run_id=run_id,
        place=place,
        sha256=hashlib.sha256(words.encode()).hexdigest(),
        text=words if monitor.keep_text else None,
        tokens=tokens,
    )


def _probe(monitor: MonitorView) -> Mapping[str, Any] | None:
    """Return the figures of the best linear probe, by the calibration texts."""
    probes = (one for one in monitor.figures["candidates"] if one["name"].startswith("probe"))
    return next(probes, None)


def _checked(
    monitor: MonitorView,
    scored: ScoredText,
    known: Mapping[int, TokenInfo],
    features: Sequence[int],
    probe: Mapping[str, Any] | None,
    alert_id: int | None,
) -> CheckedText:
    own: MonitorScore = scored.scores[0]
    tokens = [known.get(token) or TokenInfo(token, UNKNOWN, special=False) for token in scored.token_ids]
    values: list[float | None] = [None] * len(scored.token_ids)
    for position, value in zip(own.positions, own.values, strict=True):
        values[position] = value
    beside = scored.scores[1].score if len(scored.scores) > 1 else None
    return CheckedText(
        score=own.score,
        threshold=monitor.threshold,
        alert=own.alert,
        positions=own.positions,
        values=values,
        tokens=[plain(token.bytes) for token in tokens],
        token_infos=[(token.id, token.bytes, token.special) for token in tokens],
        features=list(zip(features, own.channels, strict=False)),
        probe_score=beside,
        probe_threshold=None if beside is None or probe is None else probe["threshold"],
        alert_id=alert_id,
    )
