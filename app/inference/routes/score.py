"""Score texts with monitors, which hold all that they need of an SAE."""

from dataclasses import replace

import structlog
from fastapi import APIRouter, Request

from app.inference.dependencies import Engine, model_turn
from app.inference.engine import ProbeEngine
from app.inference.model_thread import run_in_model_thread
from app.services.inference_messages import ChatMessage, MonitorScore, ScoreAnswer, ScoredText, ScoreRequest
from sae_core.monitoring import Monitor, TextScore, check_model, monitor_from_json, score_texts

log = structlog.get_logger("inference")

router = APIRouter()


@router.post("/score")
async def score(request: ScoreRequest, http: Request, engine: Engine) -> ScoreAnswer:
    """Return each monitor's score of each text; other requests get their turns between texts."""
    found = []
    for number, text in enumerate(request.texts):
        async with model_turn(http, admitted=number > 0) as turn:
            found.append(await run_in_model_thread(_score, engine, request, text))
            turn.raise_if_gone()
    log.info("score", model=request.model.name, texts=len(found), tokens=sum(len(text.token_ids) for text in found))
    return ScoreAnswer(texts=found)


def _score(engine: ProbeEngine, request: ScoreRequest, text: str | list[ChatMessage]) -> ScoredText:
    with engine.use_model(request.model) as model:
        monitors = [replace(monitor_from_json(one.file, one.name), name=one.name) for one in request.monitors]
        for monitor in monitors:
            check_model(monitor, model)
        read = text if isinstance(text, str) else [message.model_dump() for message in text]
        (scored,) = score_texts(model, monitors, [read], max_tokens=request.max_tokens)
    scores = [_out(monitor, own) for monitor, own in zip(monitors, scored.scores, strict=True)]
    return ScoredText(token_ids=scored.token_ids, scores=scores)


def _out(monitor: Monitor, own: TextScore) -> MonitorScore:
    few = monitor.detector.kind == "features" and len(own.channels)
    return MonitorScore(
        score=own.score,
        alert=own.alert,
        positions=own.positions.tolist(),
        values=own.values.tolist(),
        running=own.running.tolist(),
        channels=own.channels.max(axis=0).tolist() if few else [],
    )
