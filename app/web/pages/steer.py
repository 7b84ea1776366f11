"""Steering: change a feature inside the model, and read what it writes with and without. The prompt comes by POST."""

import math
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Form, Query, Request
from fastapi.responses import HTMLResponse, Response, StreamingResponse
from fastapi.sse import format_sse_event
from pydantic import BaseModel, Field
from sqlalchemy.ext.asyncio import AsyncSession

from app.db import transaction
from app.errors import NoWeights, Unprocessable, UserError
from app.queries.features import FeatureDetail, Histogram, get_feature, like_in_mass
from app.queries.saes import SaeDetail
from app.queries.sql.pg_safe import MAX_INTEGER
from app.services.generation import MAX_NEW_TOKENS, Generated, NextToken, PredictionShift, Wish, generate
from app.services.inference import InferenceClient
from app.services.inference_messages import PlacedIntervention
from app.services.texts import unix_lines
from app.services.tokens import plain
from app.web import rendering
from app.web.components.formatting import percent, significant
from app.web.components.prompts import EXAMPLE_PROMPTS
from app.web.components.snippets import steering_snippet
from app.web.dependencies import AppSettings, Inference, Sae
from app.web.parameters import checks_its_own_parameters, refuse_unknown
from app.web.rendering import render, wants_fragment

router = APIRouter()

Op = Literal["clamp", "scale", "add", "ablate"]
Control = Literal["", "feature", "direction"]

_MOST_CHANGED = 6
"""Positions in the table of predictions that changed most."""
_STEPS = (0.01, 0.05, 0.2, 0.5, 1.0, 2.0)
"""KL in nats from which a token gets the next shade."""
_DEFAULT_STRENGTH = 2.0
"""Of a feature's maximum activation: most features show at it, and few models break."""


class SteerForm(BaseModel):
    """What the form holds, and a link to it."""

    text: str = ""
    feature: Annotated[int | None, Field(ge=0, le=MAX_INTEGER)] = None
    op: Op = "clamp"
    value: Annotated[float, Field(ge=-1e6, le=1e6)] | None = None
    positions: Literal["all", "prompt", "generated"] = "all"
    tokens: Annotated[int, Field(ge=1, le=MAX_NEW_TOKENS)] = 30
    temperature: Annotated[float, Field(ge=0, le=100)] = 0.0
    seed: Annotated[int, Field(ge=0, le=MAX_INTEGER)] = 0

    def link(self, sae: SaeDetail) -> str:
        """Return the page's address with these values."""
        given = self.model_dump(exclude_defaults=True, exclude_none=True)
        return f"/saes/{sae.slug}/steer" + (f"?{urlencode(given)}" if given else "")


class SteerSent(SteerForm):
    """The form as it is sent; `control` does the same to something random instead."""

    control: Control = ""

    def form(self) -> SteerForm:
        """Return what it holds, with lines as the API's callers send them."""
        values = self.model_dump(exclude={"control"})
        return SteerForm(**values | {"text": unix_lines(self.text)})


@dataclass(frozen=True, slots=True)
class Mark:
    """A strength to choose, from the feature's own range."""

    name: str
    value: float


@dataclass(frozen=True, slots=True)
class ShownToken:
    """A generated token: its shade says how much the prediction at its place changed."""

    text: str
    shade: int
    note: str


@dataclass(frozen=True, slots=True)
class Subject:
    """The feature that is steered, and how strong it is in the corpus."""

    number: int
    label: str | None
    marks: list[Mark]
    detail: FeatureDetail | None

    @property
    def default_value(self) -> float:
        """Strength that the form starts with."""
        return next((mark.value for mark in self.marks if mark.name.startswith(f"{_DEFAULT_STRENGTH:g}")), 10.0)


async def _session(request: Request) -> Any:
    async with transaction(request.app.state.sessionmaker) as session:
        yield session


OwnSession = Annotated[AsyncSession, Depends(_session, scope="function")]


@router.get("/saes/{sae}/steer")
@checks_its_own_parameters
async def steer_form(
    request: Request, sae: Sae, session: OwnSession, settings: AppSettings, given: Annotated[SteerForm, Query()]
) -> HTMLResponse:
    """Show the form, filled in with the query string, without a result."""
    refuse_unknown(request, tuple(SteerForm.model_fields))
    if not sae.has_weights:
        raise NoWeights(sae.slug)
    return render(request, "steer/page.html", await _context(session, sae, settings.probe_max_tokens, given))


@router.post("/saes/{sae}/steer")
async def steer(
    request: Request,
    sae: Sae,
    session: OwnSession,
    inference: Inference,
    settings: AppSettings,
    sent: Annotated[SteerSent, Form()],
) -> Response:
    """Generate with and without, and stream it to a page that reads it as it comes."""
    given, control = sent.form(), sent.control
    template = "steer/_result.html" if wants_fragment(request) else "steer/page.html"
    context = await _context(session, sae, settings.probe_max_tokens, given)
    try:
        subject, wish = await _wish(session, sae, given, context["subject"], control)
        if "text/event-stream" in request.headers.get("accept", ""):
            steps = _steps(request, inference, sae, given, subject, control, wish)
            first = await anext(steps)
            return StreamingResponse(_rest(first, steps), media_type="text/event-stream")
        whole = Generated()
        async for part in generate(session, inference, sae, wish):
            whole.add(part)
    except UserError as error:
        fields = [(name, str(value)) for name, value in given.model_dump(exclude_none=True).items()]
        failed = {"error": error, "sent": [*fields, ("control", control)]}
        return render(request, template, {**context, **failed}, status=error.status)
    return render(request, template, {**context, **_result(sae, given, subject, control, wish, whole)})


async def _steps(
    request: Request,
    inference: InferenceClient,
    sae: SaeDetail,
    given: SteerForm,
    subject: Subject,
    control: Control,
    wish: Wish,
) -> AsyncGenerator[bytes]:
    """Yield the tokens of both sides as HTML while they come, then the whole result."""
    whole = Generated()
    async with (
        transaction(request.app.state.sessionmaker) as session,
        aclosing(generate(session, inference, sae, wish)) as parts,
    ):
        async for part in parts:
            whole.add(part)
            if isinstance(part, NextToken):
                html = rendering.text("steer/_token.html", {"token": _shown(part, None)})
                yield format_sse_event(event=part.side, data_str=html)
    html = rendering.text("steer/_result.html", {"sae": sae, **_result(sae, given, subject, control, wish, whole)})
    yield format_sse_event(event="done", data_str=html)


async def _rest(first: bytes, steps: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    async with aclosing(steps):
        yield first
        try:
            async for step in steps:
                yield step
        except UserError as error:
            html = rendering.text("steer/_failed.html", {"error": error})
            yield format_sse_event(event="failed", data_str=html)


async def _context(session: AsyncSession, sae: SaeDetail, limit: int, given: SteerForm) -> dict[str, Any]:
    subject = None if given.feature is None else await _subject(session, sae, given.feature)
    return {
        "sae": sae,
        "given": given,
        "subject": subject,
        "limit": limit,
        "ops": get_args(Op),
        "examples": EXAMPLE_PROMPTS,
        "error": None,
        "result": None,
        "most_new": MAX_NEW_TOKENS,
    }


async def _subject(session: AsyncSession, sae: SaeDetail, number: int) -> Subject:
    detail = await get_feature(session, sae, number)
    if detail is None:
        return Subject(number, None, [], None)
    label = next((label.explanation for label in detail.labels if label.explanation), None)
    marks = [
        Mark("median", _quantile(detail.histogram, 0.5)),
        Mark("99 %", _quantile(detail.histogram, 0.99)),
        Mark("maximum", detail.max),
        *(Mark(f"{factor} × maximum", factor * detail.max) for factor in (2, 5, 10)),
    ]
    return Subject(number, label, marks if detail.max > 0 else [], detail)


def _quantile(histogram: Histogram, share: float) -> float:
    """Return a quantile of the non-zero activations, interpolated within its bin."""
    wanted, below = share * sum(histogram.counts), 0
    for count, low, high in zip(histogram.counts, histogram.edges, histogram.edges[1:], strict=False):
        if count and below + count >= wanted:
            return low + (high - low) * (wanted - below) / count
        below += count
    return histogram.edges[-1]


async def _wish(
    session: AsyncSession, sae: SaeDetail, given: SteerForm, subject: Subject | None, control: Control
) -> tuple[Subject, Wish]:
    """Return what is steered and what is asked of the model.

    Raises:
        Unprocessable: no feature is chosen, or there is no control for it.
    """
    if subject is None:
        raise Unprocessable("Choose a feature to change: its number, as its page names it.")
    if control == "feature":
        other = None if subject.detail is None else await like_in_mass(session, sae, subject.number)
        if other is None:
            raise Unprocessable("A random feature of equal activation mass needs an index with active features.")
        subject = await _subject(session, sae, other)
    value = given.value if given.value is not None else subject.default_value
    change = PlacedIntervention(
        op=given.op,
        value=0.0 if given.op == "ablate" else value,
        feature=subject.number,
        positions=given.positions,
        random_direction=given.seed if control == "direction" else None,
    )
    wish = Wish(given.text, [(None, change)], given.tokens, given.temperature, given.seed)
    return subject, wish


def _result(
    sae: SaeDetail, given: SteerForm, subject: Subject, control: Control, wish: Wish, whole: Generated
) -> dict[str, Any]:
    shifts = {shift.position: shift for shift in whole.shifts}
    start = len(whole.prompt)
    own = [shift.kl for shift in whole.shifts if shift.position >= start - 1]
    texts = [plain(token.bytes) for token in whole.prompt] + [plain(token.bytes) for token in whole.changed.tokens]
    most = sorted(whole.shifts, key=lambda shift: -shift.kl)[:_MOST_CHANGED]
    return {
        "error": None,
        "result": whole,
        "default_tokens": [_shown(token, None) for token in whole.default.whole_tokens()],
        "changed_tokens": [
            _shown(token, shifts.get(start + place - 1)) for place, token in enumerate(whole.changed.whole_tokens())
        ],
        "mean_kl": sum(own) / len(own) if own else 0.0,
        "most_changed": [(texts[shift.position], shift) for shift in most if shift.kl > 0],
        "same": [token.id for token in whole.default.tokens] == [token.id for token in whole.changed.tokens],
        "steered": subject,
        "change": wish.interventions[0][1],
        "control": control,
        "link": given.link(sae),
        "snippet": steering_snippet(sae, wish),
        "has_index": sae.index is not None,
    }


def _shown(token: NextToken, shift: PredictionShift | None) -> ShownToken:
    lines = [f"{plain(one.bytes)} {percent(math.exp(one.log_probability))}" for one in token.top[:4]]
    lines.insert(0, f"log-probability {significant(token.log_probability)}")
    if shift is not None:
        lines.insert(1, f"KL {significant(shift.kl)} nats")
    shade = 0 if shift is None else sum(shift.kl >= least for least in _STEPS)
    return ShownToken(token.text, shade, "\n".join(lines))
