"""The probe: paste a prompt, see the features active on each token. The prompt comes by POST and is not kept."""

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import NoWeights, UserError
from app.queries.examples import ExampleView, best_examples
from app.queries.saes import SaeDetail
from app.services.probe import ProbeFeature, ProbeResult, probe
from app.services.texts import unix_lines
from app.services.tokens import plain
from app.web.components import token_text
from app.web.components.formatting import significant
from app.web.components.prompts import EXAMPLE_PROMPTS
from app.web.dependencies import AppSettings, Inference, Sae, Session
from app.web.rendering import render, wants_fragment

router = APIRouter()

_TOP = 50
_PER_TOKEN = 8
_MAX_SNIPPETS = 400
_SNIPPET = {"before": 6, "after": 4}


@dataclass(frozen=True, slots=True)
class Ranked:
    """A row of the list of the prompt's features."""

    feature: ProbeFeature
    snippet: token_text.Line | None
    cells: list[tuple[int, int]]
    """Position and shade of each token it is active on."""


@router.get("/saes/{sae}/probe")
async def probe_form(request: Request, sae: Sae, settings: AppSettings, text: str = "") -> HTMLResponse:
    """Show the form, filled in with `text`, without a result."""
    if not sae.has_weights:
        raise NoWeights(sae.slug)
    return render(request, "probe/page.html", _context(sae, settings.probe_max_tokens, text))


@router.post("/saes/{sae}/probe")
async def run_probe(
    request: Request,
    sae: Sae,
    session: Session,
    inference: Inference,
    settings: AppSettings,
    text: Annotated[str, Form()] = "",
    feature: Annotated[str, Form()] = "",
) -> HTMLResponse:
    """Probe `text`; `feature` is the one to shade by, for browsers without JavaScript."""
    text = unix_lines(text)  # as the API's callers send it
    context = _context(sae, settings.probe_max_tokens, text)
    template = "probe/_result.html" if wants_fragment(request) else "probe/page.html"
    try:
        result = await probe(session, inference, sae, text, top_k=_TOP)
    except UserError as error:
        return render(request, template, {**context, "error": error}, status=error.status)
    best = await _best(session, sae, result)
    ranked = _ranked(result, best)
    shaded = next((row for row in ranked if str(row.feature.index) == feature), ranked[0] if ranked else None)
    context |= {
        "result": result,
        "ranked": ranked,
        "shaded": shaded,
        "runs": _runs(result, shaded),
        "tab_stop": shaded.feature.max_position if shaded else 0,
        "data": _data(result, ranked, best),
    }
    return render(request, template, context)


def _context(sae: SaeDetail, limit: int, text: str) -> dict[str, Any]:
    return {"sae": sae, "text": text, "limit": limit, "examples": EXAMPLE_PROMPTS, "error": None, "result": None}


def _ranked(result: ProbeResult, best: dict[int, ExampleView]) -> list[Ranked]:
    return [
        Ranked(
            feature=feature,
            snippet=token_text.line(view, view.activation) if (view := best.get(feature.index)) else None,
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


def _runs(result: ProbeResult, shaded: Ranked | None) -> tuple[token_text.Run, ...]:
    def step(position: int) -> int:
        return token_text.step(shaded.feature.activations[position], shaded.feature.scale) if shaded else 0

    def note(position: int) -> str:
        lines = [
            f"{active.label or f'feature {active.index}'}: {significant(active.activation)}"
            for active in result.per_token[position][:3]
        ]
        return "\n".join([f"token {result.tokens[position].id} · position {position}", *lines])

    tokens = [(token.id, token.bytes, token.special) for token in result.tokens]
    return token_text.plain_runs(tokens, note, step, shaded.feature.max_position if shaded else -1)


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
