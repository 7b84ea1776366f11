"""The OpenAI-compatible endpoint at the root of the site: /v1/chat/completions, /v1/completions, /v1/models."""

import json
import time
from collections.abc import AsyncGenerator, Collection, Mapping, Sequence
from contextlib import aclosing
from typing import Annotated, Any, Literal
from uuid import uuid4

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from app.asgi import keep_after_cancellation, unless_gone
from app.db import transaction
from app.errors import UserError
from app.services import completions as service
from app.services.completions import CompletionPart, CompletionWish, PreparedCompletion, ServedModel
from app.services.inference import InferenceClient
from app.services.inference_messages import CompletionEnd, CompletionStart, CompletionToken, LiveAlert
from app.services.live_monitors import keep_findings
from app.web.completion_metrics import CompletionMetrics
from app.web.components.completion_answers import (
    FINISH_REASONS,
    Answer,
    ChatCompletionOut,
    CompletionOut,
    UsageOut,
    Vocabulary,
    WatchedOut,
    alert_out,
)
from app.web.components.completion_requests import ChatCompletionIn, CompletionIn, SampledIn
from app.web.components.intervention_models import EVENTS
from app.web.dependencies import Inference, Session
from app.web.openai_errors import DOCUMENTED, error_body, error_of
from app.web.streams import begun

router = APIRouter(prefix="/v1", tags=["Endpoint"])


class ServedModelOut(BaseModel):
    """A model that answers."""

    id: str
    object: Literal["model"] = "model"
    created: Annotated[int, Field(description="When it was registered here, in seconds since 1970.")]
    owned_by: str = "seesae"
    saes: Annotated[list[str], Field(description="Its SAEs, newest first, each of which may stand for it in `model`.")]


class ServedModelsOut(BaseModel):
    """All models that answer, that of the newest SAE first."""

    object: Literal["list"] = "list"
    data: list[ServedModelOut]


@router.get("/models", summary="List the models that answer", responses=DOCUMENTED)
async def list_models(session: Session) -> ServedModelsOut:
    """Return the models that have an SAE with weights here."""
    return ServedModelsOut(data=[_served(one) for one in await service.served_models(session)])


@router.get("/models/{model:path}", summary="Show a model that answers", responses=DOCUMENTED)
async def get_model(
    session: Session, model: Annotated[str, Path(description="A model, or one of its SAEs.")]
) -> ServedModelOut:
    """Return one model."""
    return _served(await service.find_served(session, model))


def _served(served: ServedModel) -> ServedModelOut:
    return ServedModelOut(
        id=served.model.name,
        created=int(served.model.created_at.timestamp()),
        saes=[sae.slug for sae in served.saes],
    )


_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {EVENTS: {"schema": {"type": "string", "description": "`data:` chunks, then `[DONE]`."}}}}
}


@router.post(
    "/chat/completions",
    summary="Answer a conversation",
    response_model=ChatCompletionOut,
    responses=_STREAM | DOCUMENTED,
)
async def chat_completions(request: Request, body: ChatCompletionIn, inference: Inference) -> Any:
    """Answer a conversation in the model's own chat format, in OpenAI's; `seesae` says what is changed meanwhile."""
    return await _answered(request, inference, body, body.wish(), chat=True, logprobs=bool(body.logprobs))


@router.post(
    "/completions",
    summary="Continue a text",
    response_model=CompletionOut,
    responses=_STREAM | DOCUMENTED,
)
async def completions(request: Request, body: CompletionIn, inference: Inference) -> Any:
    """Continue a text as it is, in OpenAI's format; `seesae` says what is changed meanwhile."""
    return await _answered(request, inference, body, body.wish(), chat=False, logprobs=body.logprobs is not None)


async def _answered(
    request: Request, inference: InferenceClient, body: SampledIn, wish: CompletionWish, *, chat: bool, logprobs: bool
) -> Response:
    async with transaction(request.app.state.sessionmaker) as session:
        prepared = await service.prepare(session, wish)
    answer = Answer(
        id=("chatcmpl-" if chat else "cmpl-") + uuid4().hex,
        created=int(time.time()),
        model=body.model,
        chat=chat,
        logprobs=logprobs,
        include_usage=body.include_usage,
    )
    writing = _Writing(request, inference, prepared, answer)
    if not body.stream:
        return _json(await unless_gone(request.receive, writing.whole()))
    events = await unless_gone(request.receive, begun(writing.events(), _failed))
    return StreamingResponse(events, media_type=EVENTS, headers={"Cache-Control": "no-store"})


class _Writing:
    """One answer, as it is written."""

    def __init__(
        self, request: Request, inference: InferenceClient, prepared: PreparedCompletion, answer: Answer
    ) -> None:
        self._sessions = request.app.state.sessionmaker
        self._metrics: CompletionMetrics = request.app.state.completion_metrics
        self._prepared = prepared
        self._parts: AsyncGenerator[CompletionPart] = service.complete(inference, prepared)
        self._answer = answer
        self._prompt_tokens = 0
        self._scores: Mapping[str, float] = {}
        self._alerts: list[LiveAlert] = []

    async def whole(self) -> Any:
        """Return the answer once it is complete."""
        tokens: list[CompletionToken] = []
        async with aclosing(self._watched_parts()) as parts:
            async for part in parts:
                if isinstance(part, CompletionToken):
                    tokens.append(part)
                elif isinstance(part, CompletionEnd):
                    end = part
        text = "".join(token.text for token in tokens) + end.text
        known = await self._known(tokens)
        watched = await self._watched(self._alerts) if self._prepared.monitors else None
        return self._answer.whole(text, tokens, known, FINISH_REASONS[end.reason], self._usage(end), watched)

    async def events(self) -> AsyncGenerator[bytes]:
        """Yield the answer as server-sent events, one per token."""
        written = 0
        async with aclosing(self._watched_parts()) as parts:
            async for part in parts:
                watched = None if part.watched is None else await self._watched(part.watched.alerts)
                if isinstance(part, CompletionToken):
                    if part.text or self._answer.logprobs or watched:
                        yield _event(self._answer.chunk(part, await self._known([part]), written, watched))
                    written += len(part.text)
                elif isinstance(part, CompletionEnd):
                    yield _event(self._answer.last(part.text, FINISH_REASONS[part.reason], watched))
                    if self._answer.include_usage:
                        yield _event(self._answer.usage(self._usage(part)))
                else:
                    yield _event(self._answer.first(watched))
        yield b"data: [DONE]\n\n"

    async def _watched_parts(self) -> AsyncGenerator[CompletionPart]:
        """Yield the parts, and keep what monitors found: of a whole answer, and alerts of one whose client has gone."""
        ended = False
        try:
            async with aclosing(self._parts) as parts:
                async for part in parts:
                    if part.watched is not None:
                        self._scores = part.watched.scores
                        self._alerts += part.watched.alerts
                        self._metrics.alerted(self._prepared.request.on_alert, len(part.watched.alerts))
                    if isinstance(part, CompletionStart):
                        self._prompt_tokens = part.prompt_tokens
                    if isinstance(part, CompletionEnd):
                        ended = True
                        await self._keep()
                        self._count(part)
                    yield part
        finally:
            if self._alerts and not ended:
                keep_after_cancellation(self._keep())

    async def _keep(self) -> None:
        if self._scores:
            async with transaction(self._sessions) as session:
                own = self._prepared.served.model
                scores, alerts, place = self._scores, self._alerts, self._answer.id
                await keep_findings(session, self._prepared.monitors, own, scores, alerts, place=place)

    async def _known(self, tokens: list[CompletionToken]) -> Vocabulary:
        if not self._answer.logprobs:
            return {}
        return await self._texts({one for token in tokens for one in (token.id, *(likely for likely, _ in token.top))})

    async def _texts(self, ids: Collection[int]) -> Vocabulary:
        async with transaction(self._sessions) as session:
            return await service.token_texts(session, self._prepared.served.model, ids)

    async def _watched(self, alerts: Sequence[LiveAlert]) -> WatchedOut:
        """Return alerts, and the scores so far."""
        known = await self._texts({alert.token_id for alert in alerts}) if alerts else {}
        action = self._prepared.request.on_alert
        return WatchedOut(alerts=[alert_out(alert, known, action) for alert in alerts], scores=dict(self._scores))

    def _count(self, end: CompletionEnd) -> None:
        operation = "chat" if self._answer.chat else "text"
        self._metrics.completed(operation, FINISH_REASONS[end.reason], self._prompt_tokens, end.tokens)

    def _usage(self, end: CompletionEnd) -> UsageOut:
        total = self._prompt_tokens + end.tokens
        return UsageOut(prompt_tokens=self._prompt_tokens, completion_tokens=end.tokens, total_tokens=total)


def _json(content: Any) -> Response:
    return Response(_bytes(content), media_type="application/json")


def _event(content: Any) -> bytes:
    return b"data: " + _bytes(content) + b"\n\n"


def _bytes(content: Any) -> bytes:
    return json.dumps(content, ensure_ascii=False).encode()


def _failed(error: UserError) -> bytes:
    return _event(error_body(error_of(error)))
