"""POST /saes/{sae}/generate."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from fastapi.sse import format_sse_event
from pydantic import BaseModel, Field

from app.db import transaction
from app.problems import documented
from app.queries.saes import SaeDetail
from app.services import generation as service
from app.services.generation import GenerationPart, NextToken, PredictionShift, Prompt, SideEnd, Wish
from app.services.inference import InferenceClient
from app.web.components.intervention_models import EVENTS, PromptedIn, failed
from app.web.components.token_models import TokenText
from app.web.dependencies import Inference, Sae
from app.web.streams import begun

router = APIRouter(prefix="/api/v1/saes/{sae}/generate", tags=["Intervene"])


class GenerateIn(PromptedIn):
    """A prompt to continue with and without interventions."""

    max_new_tokens: Annotated[int, Field(ge=1, le=service.MAX_NEW_TOKENS)] = 40
    top_logprobs: Annotated[
        int, Field(ge=1, le=50, description="Likeliest tokens to list for each, and tokens raised and lowered.")
    ] = 5


class PromptTokenOut(BaseModel):
    """One token of the prompt."""

    id: int
    text: TokenText
    special: bool
    role: Annotated[str | None, Field(description="Of its turn; null outside of a conversation.")]


class LikelyTokenOut(BaseModel):
    """A token that could stand at a place."""

    id: int
    text: str
    logprob: float


class SideOut(BaseModel):
    """The continuation of one side."""

    text: str
    token_ids: list[int]
    tokens: Annotated[list[str], Field(description="Their texts, which join to `text`.")]
    logprobs: Annotated[list[float], Field(description="Log-probability of each token, at temperature 1.")]
    top_logprobs: list[list[LikelyTokenOut]]
    end: Literal["length", "end of text", "stop"]


class MovedTokenOut(BaseModel):
    """A token whose probability changes."""

    id: int
    text: str
    before: float
    after: float


class ShiftOut(BaseModel):
    """Change of the prediction after one token of the changed text."""

    position: int
    kl: float
    raised: list[MovedTokenOut]
    lowered: list[MovedTokenOut]


class GenerateOut(BaseModel):
    """Both continuations, and what the interventions change at each position."""

    prompt: list[PromptTokenOut]
    default: SideOut
    changed: SideOut
    kl: Annotated[
        list[float],
        Field(
            description="KL(changed ‖ default), in nats, of the next-token distribution after each token of the prompt "
            "and of the changed continuation but its last; both models read the same tokens."
        ),
    ]
    shifts: Annotated[list[ShiftOut], Field(description="The same positions, with the tokens that moved most.")]


@router.post(
    "",
    summary="Generate with and without interventions",
    response_model=GenerateOut,
    responses={
        200: {"content": {EVENTS: {"schema": {"type": "string", "description": "Events prompt, token, shift, end."}}}},
        **documented(404, 409, 413),
    },
)
async def generate(request: Request, sae: Sae, wish: GenerateIn, inference: Inference) -> Any:
    """Continue a text or a conversation twice, with the same seed: as the model is, and changed.

    With `Accept: text/event-stream` the tokens of both sides come as they are generated: events `prompt`, `token`,
    `shift`, `end` for each side, and `failed` where it stops half-way; then `done`.
    """
    asked = wish.wish(wish.max_new_tokens, wish.top_logprobs)
    if EVENTS in request.headers.get("accept", ""):
        events = await begun(_events(request, inference, sae, asked), failed)
        return StreamingResponse(events, media_type=EVENTS, headers={"Cache-Control": "no-store"})
    async with transaction(request.app.state.sessionmaker) as session:
        whole = await service.generate_all(session, inference, sae, asked)
    return Response(_answer(whole).model_dump_json(), media_type="application/json")


async def _events(request: Request, inference: InferenceClient, sae: SaeDetail, wish: Wish) -> AsyncGenerator[bytes]:
    async with (
        transaction(request.app.state.sessionmaker) as session,
        aclosing(service.generate(session, inference, sae, wish)) as parts,
    ):
        async for part in parts:
            name, data = _event(part)
            yield format_sse_event(event=name, data_str=data.model_dump_json())
    yield format_sse_event(event="done", data_str="{}")


class PromptEvent(BaseModel):
    """The prompt's tokens."""

    tokens: list[PromptTokenOut]


class TokenEvent(BaseModel):
    """The next token of one side."""

    side: Literal["default", "changed"]
    id: int
    text: str
    logprob: float
    top_logprobs: list[LikelyTokenOut]


class EndEvent(BaseModel):
    """A side is complete."""

    side: Literal["default", "changed"]
    end: str
    text: Annotated[str, Field(description="What the last tokens left of a character.")]


def _event(part: GenerationPart) -> tuple[str, BaseModel]:
    match part:
        case Prompt():
            return "prompt", PromptEvent(tokens=_prompt(part.tokens))
        case NextToken():
            return "token", TokenEvent(
                side=part.side,
                id=part.id,
                text=part.text,
                logprob=part.log_probability,
                top_logprobs=_likely(part),
            )
        case PredictionShift():
            return "shift", _shift(part)
        case SideEnd():
            return "end", EndEvent(side=part.side, end=part.reason, text=part.text)


def _answer(whole: service.Generated) -> GenerateOut:
    return GenerateOut(
        prompt=_prompt(whole.prompt),
        default=_side(whole.default),
        changed=_side(whole.changed),
        kl=[shift.kl for shift in whole.shifts],
        shifts=[_shift(shift) for shift in whole.shifts],
    )


def _prompt(tokens: Any) -> list[PromptTokenOut]:
    return [PromptTokenOut(id=token.id, text=token.text, special=token.special, role=token.role) for token in tokens]


def _side(side: service.SideText) -> SideOut:
    texts = [token.text for token in side.whole_tokens()]
    return SideOut(
        text=side.text,
        token_ids=[token.id for token in side.tokens],
        tokens=texts,
        logprobs=[token.log_probability for token in side.tokens],
        top_logprobs=[_likely(token) for token in side.tokens],
        end=side.end,  # type: ignore[arg-type]  # pydantic checks it
    )


def _likely(token: NextToken) -> list[LikelyTokenOut]:
    return [LikelyTokenOut(id=one.id, text=one.text, logprob=one.log_probability) for one in token.top]


def _shift(shift: PredictionShift) -> ShiftOut:
    def moved(tokens: tuple[service.MovedToken, ...]) -> list[MovedTokenOut]:
        return [MovedTokenOut(id=one.id, text=one.text, before=one.before, after=one.after) for one in tokens]

    return ShiftOut(position=shift.position, kl=shift.kl, raised=moved(shift.raised), lowered=moved(shift.lowered))
