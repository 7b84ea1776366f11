"""Steering: change features inside the model, and read what it writes with and without. The prompt comes by POST.

One form has two buttons: `steer` continues the prompt once, `sweep` at a range of strengths.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, get_args

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import HTMLResponse, Response, StreamingResponse
from fastapi.sse import format_sse_event
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.datastructures import FormData

from app.db import transaction
from app.errors import NoWeights, Unprocessable, UserError
from app.queries.saes import SaeDetail, list_saes
from app.services import sweep as sweeping
from app.services.controls import control_of
from app.services.generation import MAX_NEW_TOKENS, Generated, NextToken, Prompt, Wish, generate
from app.services.inference import InferenceClient
from app.services.sweep import SweepStart, SweepWish, Swept, sweep
from app.web import rendering
from app.web.components import steer_result
from app.web.components.prompts import EXAMPLE_PROMPTS
from app.web.components.steer_form import Direction, Op, Row, SteerForm
from app.web.components.steer_subject import Subject, subject_of
from app.web.components.sweep_charts import sweep_charts
from app.web.dependencies import AppSettings, Inference, Sae
from app.web.parameters import checks_its_own_parameters, refuse_unknown
from app.web.rendering import render, wants_fragment
from app.web.streams import begun

router = APIRouter()

ControlChoice = Literal["", "feature", "direction", "texts"]

_FIELDS = (
    *("mode", "text", "role", "content", "sae", "feature", "op", "value", "positions", "at", "special", "tokens"),
    *("temperature", "seed", "stop", "strengths", "sweep_control", "direction", "direction_op", "direction_value"),
    *("direction_feature", "positive", "negative"),
)
_BLANK_TURNS = (("system", ""), ("user", ""))
_ROLES = ("system", "user", "assistant", "tool")


async def _session(request: Request) -> Any:
    async with transaction(request.app.state.sessionmaker) as session:
        yield session


OwnSession = Annotated[AsyncSession, Depends(_session, scope="function")]


@dataclass(frozen=True, slots=True)
class Ask:
    """What one press of a button asks for."""

    sae: SaeDetail
    form: SteerForm
    wish: Wish
    control: ControlChoice
    control_wish: Wish | None


@router.get("/saes/{sae}/steer")
@checks_its_own_parameters
async def steer_form(request: Request, sae: Sae, session: OwnSession, settings: AppSettings) -> HTMLResponse:
    """Show the form, filled in with the query string, without a result."""
    refuse_unknown(request, _FIELDS)
    if not sae.has_weights:
        raise NoWeights(sae.slug)
    form = SteerForm.read(request.query_params)
    return render(request, "steer/page.html", await _context(session, sae, settings.probe_max_tokens, form))


@router.get("/saes/{sae}/steer/marks")
async def marks(
    request: Request,
    sae: Sae,
    session: OwnSession,
    feature: Annotated[str, Query()] = "",
    of: Annotated[str, Query()] = "",
) -> HTMLResponse:
    """Return strengths to choose for a feature, for a row of the form that names another one."""
    subject = await subject_of(session, sae, Row(of, feature))
    return render(request, "steer/_marks.html", {"sae": sae, "subject": subject, "form": None})


@router.post("/saes/{sae}/steer")
async def steer(
    request: Request, sae: Sae, session: OwnSession, inference: Inference, settings: AppSettings
) -> Response:
    """Generate with and without, or sweep, and stream it to a page that reads it as it comes."""
    template = "steer/_result.html" if wants_fragment(request) else "steer/page.html"
    form = SteerForm()
    async with request.form() as sent:
        try:
            form = SteerForm.read(sent)
            if not sae.has_weights:
                raise NoWeights(sae.slug)
            form = await form.with_upload(sent)
            if "toggle" in sent:
                form = form.toggled(str(sent["toggle"]))
            edited = _edited(form, sent)
            context = await _context(session, sae, settings.probe_max_tokens, edited or form)
            if edited is not None:
                return render(request, "steer/page.html", context)
            pressed = _pressed(sent)
            return await _answer(request, session, inference, context, template, pressed)
        except UserError as error:
            failed = {"error": error, "sent": [*form.fields, *_pressed_fields(sent)]}
            context = await _context(session, sae, settings.probe_max_tokens, form, lenient=True)
            return render(request, template, {**context, **failed}, status=error.status)


def _pressed_fields(sent: FormData) -> list[tuple[str, str]]:
    return [(name, str(sent[name])) for name in ("run", "control") if name in sent]


def _pressed(sent: FormData) -> tuple[str, ControlChoice]:
    """Return the button that was pressed, and the control that is compared with.

    Raises:
        Unprocessable: the page has no such button.
    """
    run, control = str(sent.get("run", "steer")), str(sent.get("control", ""))
    if run not in ("steer", "sweep") or control not in get_args(ControlChoice):
        raise Unprocessable("This page has no such button.")
    return run, control  # type: ignore[return-value]  # checked


def _edited(form: SteerForm, sent: FormData) -> SteerForm | None:
    """Return the form that a button changes without asking the model, for browsers without JavaScript."""
    if "add_row" in sent:
        return replace(form, rows=(*form.rows, Row()))
    if "add_turn" in sent:
        return replace(form, turns=(*form.turns, ("user", "")))
    removed = str(sent.get("remove_row", ""))
    if removed.isdecimal():
        rows = tuple(row for place, row in enumerate(form.rows) if place != int(removed))
        return replace(form, rows=rows or (Row(),))
    return None


async def _answer(
    request: Request,
    session: AsyncSession,
    inference: InferenceClient,
    context: dict[str, Any],
    template: str,
    pressed: tuple[str, ControlChoice],
) -> Response:
    sae, form = context["sae"], context["form"]
    run, control = pressed
    subjects: list[Subject | None] = context["subjects"]
    wish = form.wish([10.0 if subject is None else subject.default_value for subject in subjects])
    streams = "text/event-stream" in request.headers.get("accept", "")
    if run == "sweep":
        first = next((subject for subject in subjects if subject is not None), None)
        values = form.sweep_values([] if first is None else first.sweep_values)
        if not values:
            raise Unprocessable("Write the strengths to sweep over: nothing is known of this feature's own range.")
        if len(values) > sweeping.MAX_POINTS:
            raise Unprocessable(f"A sweep has at most {sweeping.MAX_POINTS} strengths; these are {len(values)}.")
        if wish.max_new_tokens > sweeping.MAX_NEW_TOKENS:
            wish = replace(wish, max_new_tokens=sweeping.MAX_NEW_TOKENS)
        asked = SweepWish(wish, values, form.control_of_sweep)
        if streams:
            return await _streamed(_sweep_steps(request, inference, sae, form, asked))
        swept = await sweeping.sweep_all(session, inference, sae, asked)
        return render(request, template, {**context, **await _swept(session, sae, form, asked, swept)})
    control_wish = None
    if control == "texts":
        control_wish = form.difference_of_means(wish)
    elif control:
        control_wish = replace(wish, interventions=await control_of(session, sae, wish, control))
    ask = Ask(sae, form, wish, control, control_wish)
    if streams:
        return await _streamed(_steer_steps(request, inference, ask))
    whole, other = await _generated(session, inference, sae, wish), None
    if control_wish is not None:
        other = await _generated(session, inference, sae, control_wish)
    return render(request, template, {**context, **await _steered(session, ask, whole, other)})


async def _generated(session: AsyncSession, inference: InferenceClient, sae: SaeDetail, wish: Wish) -> Generated:
    whole = Generated()
    async for part in generate(session, inference, sae, wish):
        whole.add(part)
    return whole


async def _streamed(steps: AsyncGenerator[bytes]) -> Response:
    return StreamingResponse(await begun(steps, _failed), media_type="text/event-stream")


def _failed(error: UserError) -> bytes:
    return format_sse_event(event="failed", data_str=rendering.text("steer/_failed.html", {"error": error}))


async def _steer_steps(request: Request, inference: InferenceClient, ask: Ask) -> AsyncGenerator[bytes]:
    """Yield a place for each text, the tokens as HTML while they come, then the whole result."""
    whole, other = Generated(), Generated()
    async with transaction(request.app.state.sessionmaker) as session:
        async with aclosing(generate(session, inference, ask.sae, ask.wish)) as parts:
            async for part in parts:
                whole.add(part)
                if isinstance(part, Prompt):
                    html = rendering.text("steer/_running.html", {"control": ask.control})
                    yield format_sse_event(event="start", data_str=html)
                if isinstance(part, NextToken):
                    yield _token(part.side, part)
        if ask.control_wish is not None:
            async with aclosing(generate(session, inference, ask.sae, ask.control_wish)) as parts:
                async for part in parts:
                    other.add(part)
                    if isinstance(part, NextToken) and part.side == "changed":
                        yield _token("control", part)
        result = await _steered(session, ask, whole, other if ask.control_wish else None)
    html = rendering.text(
        "steer/_result.html", {"actor": request.state.actor, "sae": ask.sae, "form": ask.form, **result}
    )
    yield format_sse_event(event="done", data_str=html)


def _token(side: str, token: NextToken) -> bytes:
    html = rendering.text("steer/_token.html", {"token": steer_result.shown_token(token, None)})
    return format_sse_event(event=side, data_str=html)


async def _sweep_steps(
    request: Request, inference: InferenceClient, sae: SaeDetail, form: SteerForm, asked: SweepWish
) -> AsyncGenerator[bytes]:
    """Yield an empty table, its rows as they are measured, then the whole result."""
    swept, texts = Swept(), len(asked.values) * (1 if asked.control is None else 2)
    async with transaction(request.app.state.sessionmaker) as session:
        async with aclosing(sweep(session, inference, sae, asked)) as parts:
            async for part in parts:
                swept.add(part)
                if isinstance(part, SweepStart):
                    html = rendering.text("steer/_sweeping.html", {"start": part, "texts": texts})
                    yield format_sse_event(event="start", data_str=html)
                else:
                    html = rendering.text("steer/_point.html", {"point": part, "start": swept.start})
                    yield format_sse_event(event="row", data_str=html)
        result = await _swept(session, sae, form, asked, swept)
    html = rendering.text("steer/_result.html", {"actor": request.state.actor, "sae": sae, "form": form, **result})
    yield format_sse_event(event="done", data_str=html)


async def _steered(session: AsyncSession, ask: Ask, whole: Generated, other: Generated | None) -> dict[str, Any]:
    """Return what the result's template needs."""
    context = await steer_result.steered(session, ask.sae, ask.form, ask.wish, whole)
    if other is not None and ask.control_wish is not None:
        controls = await steer_result.change_views(session, ask.sae, ask.control_wish.interventions)
        context["control"] = steer_result.control_view(ask.control, ask.wish.seed, other, controls)
    return context


async def _swept(
    session: AsyncSession, sae: SaeDetail, form: SteerForm, asked: SweepWish, swept: Swept
) -> dict[str, Any]:
    changes = await steer_result.change_views(session, sae, asked.wish.interventions)
    controls = await steer_result.change_views(session, sae, swept.start.control or [])
    return {
        "error": None,
        "result": None,
        "swept": swept,
        "charts": sweep_charts(swept),
        "changes": changes,
        "controls": controls,
        "asked": asked,
        "link": form.link(sae.slug),
    }


async def _context(
    session: AsyncSession, sae: SaeDetail, limit: int, form: SteerForm, *, lenient: bool = False
) -> dict[str, Any]:
    """Return what the page needs; `lenient` leaves out what a field that cannot be read is about."""
    subjects: list[Subject | None] = []
    for row in form.rows:
        try:
            subjects.append(await subject_of(session, sae, row))
        except UserError:
            if not lenient:
                raise
            subjects.append(None)
    others = [
        one for one in await list_saes(session) if one.model.id == sae.model.id and one.id != sae.id and one.has_weights
    ]
    return {
        "sae": sae,
        "others": others,
        "form": form,
        "blank_row": Row(),
        "rows": list(zip(form.rows, subjects, strict=True)),
        "subjects": subjects,
        "turns": form.turns or _BLANK_TURNS,
        "roles": _ROLES,
        "limit": limit,
        "ops": get_args(Op),
        "examples": EXAMPLE_PROMPTS,
        "error": None,
        "result": None,
        "swept": None,
        "most_new": MAX_NEW_TOKENS,
        "plain_direction": form.direction == Direction(),
    }
