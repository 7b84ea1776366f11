"""The probe: paste a prompt, see the features active on each token. The prompt comes by POST and is not kept.

A prompt is a text, a conversation, or two texts to compare; SAEs at other layers can read it in the same forward pass.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Annotated, Any, Literal, get_args

from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import NoWeights, Unprocessable, UserError
from app.queries.examples import ExampleView, best_examples
from app.queries.saes import SaeDetail, list_saes
from app.queries.saved_probes import list_saved_probes
from app.services.inference import InferenceClient
from app.services.inference_messages import ChatMessage, RankBy
from app.services.probe import ProbeFeature, ProbeResult, Prompt, probe, probe_prompt
from app.services.probe_diff import DiffFeature, Pair, ProbeDiff, probe_diff
from app.services.saes import find_sae
from app.services.saved_probes import delete_saved_probe, find_saved_probe, save_probe
from app.services.texts import unix_lines
from app.services.tokens import plain
from app.settings import Settings
from app.web.components import example_lines, token_text
from app.web.components.formatting import significant
from app.web.components.prompts import EXAMPLE_PROMPTS, RANKS, steer_link
from app.web.dependencies import Actor, AppSettings, Inference, Sae, Session
from app.web.rendering import render, wants_fragment

router = APIRouter()

_TOP = 50
_PER_TOKEN = 8
_MAX_SNIPPETS = 400
_SNIPPET = {"before": 6, "after": 4}


_BESIDE = 12
"""Features of each SAE where several stand side by side."""
_DIFFERENT = 60
_SAVED = 20

Mode = Literal["text", "chat", "diff"]
MODES: tuple[Mode, ...] = get_args(Mode)
_BLANK_TURNS = (("system", ""), ("user", ""))
_ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class Ranked:
    """A row of the list of the prompt's features."""

    feature: ProbeFeature
    snippet: example_lines.Line | None
    cells: list[tuple[int, int]]
    """Position and shade of each token it is active on."""


@dataclass(frozen=True, slots=True)
class Turn:
    """Consecutive tokens of one role, None outside of a conversation."""

    role: str | None
    runs: tuple[token_text.Run, ...]


@dataclass(frozen=True, slots=True)
class Different:
    """A row of the list of features that tell two prompts apart; `cells` are (place, prompt, shade)."""

    feature: DiffFeature
    snippet: example_lines.Line | None
    cells: list[tuple[int, int, int]]


@dataclass(frozen=True, slots=True)
class AlignedTokens:
    """A token of each prompt that stand for each other; None where one prompt has nothing there."""

    a: token_text.ShownToken | None
    b: token_text.ShownToken | None
    same: bool


@dataclass(frozen=True, slots=True)
class ProbeForm:
    """What the form says; `saes` are slugs beside the page's own."""

    mode: Mode
    text: str
    other: str
    turns: tuple[tuple[str, str], ...]
    rank_by: RankBy
    saes: tuple[str, ...]
    feature: str

    @property
    def prompt(self) -> Prompt:
        """Return the prompt: turns that are empty are left out."""
        if self.mode != "chat":
            return Prompt(self.text)
        written = [(role, content) for role, content in self.turns if content]
        return Prompt(chat=tuple(ChatMessage(role=role[:40] or "user", content=content) for role, content in written))

    @property
    def fields(self) -> list[tuple[str, str]]:
        """Return names and values with which the same is asked again."""
        if self.mode == "chat":
            prompt = [field for role, content in self.turns for field in (("role", role), ("content", content))]
        else:
            prompt = [("text", self.text), *([("other", self.other)] if self.mode == "diff" else [])]
        chosen: list[tuple[str, str]] = [("mode", self.mode)] if self.mode != "text" else []
        chosen += [("rank_by", self.rank_by)] if self.rank_by != "percentile" else []
        return [*chosen, *(("saes", slug) for slug in self.saes), *prompt]


async def _form(
    mode: Annotated[Mode, Form()] = "text",
    text: Annotated[str, Form()] = "",
    other: Annotated[str, Form()] = "",
    role: Annotated[list[str] | None, Form()] = None,
    content: Annotated[list[str] | None, Form()] = None,
    rank_by: Annotated[RankBy, Form()] = "percentile",
    saes: Annotated[list[str] | None, Form()] = None,
    feature: Annotated[str, Form()] = "",
) -> ProbeForm:
    """Return the form, with line ends as the API's callers send them."""
    turns = tuple(zip(role or (), map(unix_lines, content or ()), strict=False))
    return ProbeForm(mode, unix_lines(text), unix_lines(other), turns, rank_by, tuple(saes or ()), feature)


@router.get("/saes/{sae}/probe")
async def probe_form(
    request: Request, sae: Sae, session: Session, settings: AppSettings, text: str = "", mode: str = "text"
) -> HTMLResponse:
    """Show the form, filled in with `text`, without a result."""
    if not sae.has_weights:
        raise NoWeights(sae.slug)
    known = next((name for name in MODES if name == mode), None)
    if known is None:
        raise Unprocessable(f"“{mode[:40]}” is not a way to probe: use {', '.join(MODES)}.")
    context = _context(sae, await _others(session, sae), settings, await _form(known, text))
    context["saved_probes"] = await list_saved_probes(session, sae.id, _SAVED)
    return render(request, "probe/page.html", context)


@router.post("/saes/{sae}/probe")
async def run_probe(
    request: Request,
    sae: Sae,
    session: Session,
    inference: Inference,
    settings: AppSettings,
    form: Annotated[ProbeForm, Depends(_form)],
) -> HTMLResponse:
    """Probe what the form holds; its `feature` is the one to shade by, for browsers without JavaScript."""
    others = [] if wants_fragment(request) else await _others(session, sae)
    return await _probed(request, session, inference, _context(sae, others, settings, form))


@router.post("/saes/{sae}/probe/saved")
async def save(
    sae: Sae,
    session: Session,
    form: Annotated[ProbeForm, Depends(_form)],
    actor: Actor,
    title: Annotated[str, Form()] = "",
) -> Response:
    """Keep the prompt with its settings under a title."""
    public_id = await save_probe(session, sae, title, form.fields, actor=actor)
    return RedirectResponse(f"/saes/{sae.slug}/probe/saved/{public_id}", status_code=303)


@router.get("/saes/{sae}/probe/saved/{id}")
async def saved(
    request: Request, sae: Sae, id: str, session: Session, inference: Inference, settings: AppSettings
) -> HTMLResponse:
    """Show a saved probe; its result is computed again."""
    found = await find_saved_probe(session, sae, id)
    context = _context(sae, await _others(session, sae), settings, await _form_of(found.fields)) | {"saved": found}
    return await _probed(request, session, inference, context)


@router.get("/saes/{sae}/probe/saved/{id}/delete")
async def ask_to_delete(request: Request, sae: Sae, id: str, session: Session, actor: Actor) -> HTMLResponse:
    """Ask before a saved probe is deleted."""
    found = await find_saved_probe(session, sae, id)
    actor.check_change(found.owner_id, "This probe", found.author)
    return render(request, "probe/delete.html", {"sae": sae, "saved": found})


@router.post("/saes/{sae}/probe/saved/{id}/delete")
async def delete(sae: Sae, id: str, session: Session, actor: Actor) -> Response:
    """Delete a saved probe."""
    await delete_saved_probe(session, sae, id, actor=actor)
    return RedirectResponse(f"/saes/{sae.slug}/probe", status_code=303)


async def _form_of(fields: Sequence[tuple[str, str]]) -> ProbeForm:
    """Return the form whose `fields` these are."""

    def every(name: str) -> list[str]:
        return [value for own, value in fields if own == name]

    def first(name: str, default: str = "") -> str:
        return next(iter(every(name)), default)

    mode: Mode = next((name for name in MODES if name == first("mode")), "text")
    rank_by: RankBy = next((name for name in RANKS if name == first("rank_by")), "percentile")
    return await _form(mode, first("text"), first("other"), every("role"), every("content"), rank_by, every("saes"))


async def _probed(
    request: Request, session: AsyncSession, inference: InferenceClient, context: dict[str, Any]
) -> HTMLResponse:
    """Render the page, or its result alone for htmx, with what its form finds or why it cannot."""
    template = "probe/_result.html" if wants_fragment(request) else "probe/page.html"
    try:
        context |= await _found(session, inference, context["sae"], context["form"])
    except UserError as error:
        return render(request, template, {**context, "error": error}, status=error.status)
    return render(request, template, context)


async def _found(session: AsyncSession, inference: InferenceClient, sae: SaeDetail, form: ProbeForm) -> dict[str, Any]:
    """Return what the result's template needs. Raises as `probe`."""
    if form.mode == "diff":
        if not (form.text and form.other):
            raise Unprocessable("One of the two prompts is empty: enter both to compare them.")
        found = await probe_diff(session, inference, sae, (form.text, form.other), top_k=_DIFFERENT)
        return await _diff_context(session, sae, found)
    if form.mode == "text" and not form.saes:
        plain_result = await probe(session, inference, sae, form.text, top_k=_TOP, rank_by=form.rank_by)
        return await _result_context(session, sae, plain_result, form.feature)
    saes = [sae, *[await find_sae(session, slug) for slug in form.saes]]
    several = await probe_prompt(session, inference, saes, form.prompt, top_k=_TOP, rank_by=form.rank_by)
    context = await _result_context(session, sae, several.results[0], form.feature)
    beside = []
    for other, result in sorted(zip(several.saes, several.results, strict=True), key=lambda pair: _layer(pair[0])):
        cut = replace(result, features=result.features[:_BESIDE], per_token=())
        beside.append((other, cut, _ranked(cut, await _best(session, other, cut))))
    return context | {"beside": beside if len(beside) > 1 else []}


async def _result_context(session: AsyncSession, sae: SaeDetail, result: ProbeResult, feature: str) -> dict[str, Any]:
    best = await _best(session, sae, result)
    ranked = _ranked(result, best)
    shaded = next((row for row in ranked if str(row.feature.index) == feature), ranked[0] if ranked else None)
    return {
        "result": result,
        "ranked": ranked,
        "shaded": shaded,
        "turns": _turns(result, shaded),
        "added": [token for token in result.tokens if token.added],
        "added_at": {position for position, token in enumerate(result.tokens) if token.added},
        "tab_stop": shaded.feature.max_position if shaded else 0,
        "data": _data(result, ranked, best),
    }


async def _diff_context(session: AsyncSession, sae: SaeDetail, found: ProbeDiff) -> dict[str, Any]:
    unlabelled = [feature.index for feature in found.features if feature.label is None]
    best = await best_examples(session, sae, unlabelled, **_SNIPPET)
    return {
        "diff": found,
        "aligned": [_aligned(found, pair) for pair in found.alignment],
        "different": [
            Different(
                feature,
                example_lines.cut(view, view.activation) if (view := best.get(feature.index)) else None,
                _diff_cells(feature, found.alignment),
            )
            for feature in found.features
            if feature.difference > 0
        ],
        "counts": {where: sum(feature.active_in == where for feature in found.features) for where in ("a", "b")},
    }


def _aligned(found: ProbeDiff, pair: Pair) -> AlignedTokens:
    def shown(result: ProbeResult, position: int | None) -> token_text.ShownToken | None:
        if position is None:
            return None
        token = result.tokens[position]
        note = f"token {token.id} · position {position}"
        return token_text.ShownToken(token.bytes, token.special, 0, False, note, position)

    a, b = shown(found.a, pair[0]), shown(found.b, pair[1])
    return AlignedTokens(a, b, a is not None and b is not None and a.raw == b.raw)


def _diff_cells(feature: DiffFeature, alignment: Sequence[Pair]) -> list[tuple[int, int, int]]:
    cells = []
    for place, pair in enumerate(alignment):
        for side, (position, row) in enumerate(zip(pair, (feature.activations_a, feature.activations_b), strict=True)):
            if position is not None and row[position] > 0:
                cells.append((place, side, token_text.step(row[position], feature.scale)))
    return cells


def _layer(sae: SaeDetail) -> int:
    return int(sae.hook.rpartition(".")[2])


async def _others(session: AsyncSession, sae: SaeDetail) -> list[SaeDetail]:
    """Return the other SAEs of the model that can read a prompt, by layer."""
    saes = await list_saes(session)
    fitting = [other for other in saes if other.model.id == sae.model.id and other.has_weights and other.id != sae.id]
    return sorted(fitting, key=_layer)


def _context(sae: SaeDetail, others: Sequence[SaeDetail], settings: Settings, form: ProbeForm) -> dict[str, Any]:
    return {
        "sae": sae,
        "others": others,
        "form": form,
        "text": form.text,
        "rows": form.turns or _BLANK_TURNS,
        "roles": _ROLES,
        "ranks": RANKS,
        "steer_link": steer_link,
        "limit": settings.probe_max_tokens,
        "examples": EXAMPLE_PROMPTS,
        "error": None,
        "result": None,
        "diff": None,
        "beside": [],
        "saved": None,
        "saved_probes": [],
    }


def _ranked(result: ProbeResult, best: dict[int, ExampleView]) -> list[Ranked]:
    return [
        Ranked(
            feature=feature,
            snippet=example_lines.cut(view, view.activation) if (view := best.get(feature.index)) else None,
            cells=[
                (at, token_text.step(value, feature.scale)) for at, value in enumerate(feature.activations) if value > 0
            ],
        )
        for feature in result.features
    ]


async def _best(session: AsyncSession, sae: SaeDetail, result: ProbeResult) -> dict[int, ExampleView]:
    """Return the strongest examples of the features without a label, the ranked ones first."""
    listed = [(feature.index, feature.label) for feature in result.features]
    listed += [(active.index, active.label) for found in result.per_token for active in found[:_PER_TOKEN]]
    unlabelled = list(dict.fromkeys(index for index, label in listed if label is None))
    return await best_examples(session, sae, unlabelled[:_MAX_SNIPPETS], **_SNIPPET)


def _snippet(view: ExampleView) -> tuple[str, str, str]:
    """Return an example as plain text: before its token, the token, after it."""
    here = view.position - view.start
    texts = [plain(token.bytes) for token in view.tokens]
    return "".join(texts[:here]), texts[here], "".join(texts[here + 1 :])


def _turns(result: ProbeResult, shaded: Ranked | None) -> list[Turn]:
    """Return the tokens by turn: one where the prompt is a text."""

    def step(position: int) -> int:
        return token_text.step(shaded.feature.activations[position], shaded.feature.scale) if shaded else 0

    def note(position: int) -> str:
        lines = [
            f"{active.label or f'feature {active.index}'}: {significant(active.activation)}"
            for active in result.per_token[position][:3]
        ]
        return "\n".join([f"token {result.tokens[position].id} · position {position}", *lines])

    turns = []
    for role, group in groupby(enumerate(result.tokens), key=lambda entry: entry[1].role):
        shown = [
            token_text.ShownToken(
                raw=token.bytes,
                special=token.special,
                step=step(position),
                strongest=shaded is not None and position == shaded.feature.max_position,
                note=note(position),
                position=position,
            )
            for position, token in group
        ]
        turns.append(Turn(role, token_text.shown_runs(shown)))
    return turns


def _data(result: ProbeResult, ranked: list[Ranked], best: dict[int, ExampleView]) -> dict[str, Any]:
    """Return the data with which the page's script shades by other features and lists those of one token."""
    return {
        "features": [
            {
                "index": row.feature.index,
                "label": row.feature.label,
                "scale": row.feature.scale,
                "activations": {at: value for at, value in enumerate(row.feature.activations) if value > 0},
            }
            for row in ranked
        ],
        "tokens": [
            [
                {
                    "index": active.index,
                    "label": active.label,
                    "activation": active.activation,
                    "percentile": active.percentile,
                }
                for active in found[:_PER_TOKEN]
            ]
            for found in result.per_token
        ],
        "firing": [len(found) for found in result.per_token],
        "snippets": {index: _snippet(view) for index, view in best.items()},
    }
