"""POST /saes/{sae}/sweep."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from fastapi.sse import format_sse_event
from pydantic import BaseModel, Field

from app.db import transaction
from app.problems import documented
from app.queries.saes import SaeDetail
from app.services import sweep as service
from app.services.controls import Control
from app.services.inference import InferenceClient
from app.services.sweep import Point, SweepStart, SweepWish, Swept
from app.web.components.intervention_models import EVENTS, InterventionIn, PromptedIn, failed
from app.web.dependencies import Inference, Sae
from app.web.streams import begun

router = APIRouter(prefix="/api/v1/saes/{sae}/sweep", tags=["Intervene"])


class SweepIn(PromptedIn):
    """A prompt to continue at several strengths of the first intervention; the others stay as they are."""

    strengths: Annotated[
        list[Annotated[float, Field(ge=-1e6, le=1e6)]],
        Field(min_length=1, max_length=service.MAX_POINTS, description="Values of the first intervention, in turn."),
    ]
    control: Annotated[
        Control | None,
        Field(
            description="Measure a control too: the same on random features of equal activation mass, or along random "
            "directions of equal norm, drawn with `seed`."
        ),
    ] = None
    max_new_tokens: Annotated[int, Field(ge=1, le=service.MAX_NEW_TOKENS)] = 30


class PointOut(BaseModel):
    """Measures at one strength. Means are over the new tokens."""

    strength: float
    text: str
    kl: Annotated[float, Field(description="Mean KL(changed ‖ default) in nats; both read the changed text.")]
    loss: Annotated[
        float, Field(description="Mean loss of the changed model on the default model's continuation, nats per token.")
    ]
    repetition: Annotated[float, Field(description="Share of the text's 3-grams of tokens that it wrote before.")]
    promoted: Annotated[
        float | None, Field(description="Mean rise of the summed probability of the tokens in `promoted`.")
    ]
    collapsed: Annotated[
        bool,
        Field(
            description=f"The loss is more than {service.LOSS_RISE:g} nats above the default model's, or the "
            f"repetition more than {service.REPETITION_RISE:g} above that of its text."
        ),
    ]


class PromotedOut(BaseModel):
    """A token that the feature promotes by its direct effect on the logits."""

    id: int
    text: str


class DefaultOut(BaseModel):
    """The default model's continuation."""

    text: str
    loss: Annotated[float, Field(description="The default model's mean loss on it, nats per token.")]
    repetition: float


class ControlOut(BaseModel):
    """The control's interventions, whose first one takes the same strengths."""

    interventions: list[InterventionIn]
    points: list[PointOut]
    collapse: float | None


class SweepOut(BaseModel):
    """Measures by strength."""

    default: DefaultOut
    promoted: Annotated[
        list[PromotedOut],
        Field(description="The feature's top output tokens; none for a direction or without an index."),
    ]
    points: list[PointOut]
    collapse: Annotated[float | None, Field(description="The smallest strength at which the text collapses.")]
    control: ControlOut | None


@router.post(
    "",
    summary="Sweep over the strength of an intervention",
    response_model=SweepOut,
    responses={
        200: {"content": {EVENTS: {"schema": {"type": "string", "description": "Events default, point, done."}}}},
        **documented(404, 409, 413),
    },
)
async def sweep(request: Request, sae: Sae, body: SweepIn, inference: Inference) -> Any:
    """Continue a prompt at each strength, and measure the change, fluency, repetition and the promoted tokens.

    With `Accept: text/event-stream` points come as they are measured: events `default`, `point` (with `control` true
    for the control's), and `failed` where it stops half-way; then `done` with the whole answer.
    """
    asked = SweepWish(body.wish(body.max_new_tokens), body.strengths, body.control)
    if EVENTS in request.headers.get("accept", ""):
        events = await begun(_events(request, inference, sae, asked), failed)
        return StreamingResponse(events, media_type=EVENTS, headers={"Cache-Control": "no-store"})
    async with transaction(request.app.state.sessionmaker) as session:
        whole = await service.sweep_all(session, inference, sae, asked)
    return Response(_answer(whole).model_dump_json(), media_type="application/json")


class PointEvent(PointOut):
    """A point of either series."""

    control: bool


async def _events(
    request: Request, inference: InferenceClient, sae: SaeDetail, asked: SweepWish
) -> AsyncGenerator[bytes]:
    async with (
        transaction(request.app.state.sessionmaker) as session,
        aclosing(service.sweep(session, inference, sae, asked)) as parts,
    ):
        whole = Swept()
        async for part in parts:
            whole.add(part)
            if isinstance(part, SweepStart):
                name, data = "default", _default(part).model_dump_json()
            else:
                event = PointEvent(**_point(part, whole.start).model_dump(), control=part.control)
                name, data = "point", event.model_dump_json()
            yield format_sse_event(event=name, data_str=data)
    yield format_sse_event(event="done", data_str=_answer(whole).model_dump_json())


def _answer(whole: Swept) -> SweepOut:
    start = whole.start
    control = None
    if start.control is not None:
        control = ControlOut(
            interventions=[InterventionIn(sae=slug, **change.model_dump()) for slug, change in start.control],
            points=[_point(point, start) for point in whole.series(control=True)],
            collapse=whole.collapse(control=True),
        )
    return SweepOut(
        default=_default(start),
        promoted=[PromotedOut(id=token.id, text=token.text) for token in start.promoted],
        points=[_point(point, start) for point in whole.series(control=False)],
        collapse=whole.collapse(),
        control=control,
    )


def _default(start: SweepStart) -> DefaultOut:
    return DefaultOut(text=start.text, loss=start.loss, repetition=start.repetition)


def _point(point: Point, start: SweepStart) -> PointOut:
    return PointOut(
        strength=point.value,
        text=point.text,
        kl=point.kl,
        loss=point.loss,
        repetition=point.repetition,
        promoted=point.promoted,
        collapsed=point.collapses(start),
    )
