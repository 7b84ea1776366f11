"""Features by example: paste text, choose tokens, see what is unusually active on them.

The text comes by POST and is not kept. Who wants a link to a result asks for it: the text then stands in the address.
"""

import hashlib
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.datastructures import ImmutableMultiDict

from app.errors import Unprocessable, UserError
from app.queries.feature_list import FeatureRow, feature_rows
from app.queries.saes import SaeDetail
from app.services.by_example import MAX_DENSITY, ByExample, FoundFeature, by_example
from app.services.inference import InferenceClient
from app.web.components import forms, glossary, token_text
from app.web.components.prompts import EXAMPLE_PROMPTS
from app.web.dependencies import AppSettings, Inference, Sae, Session
from app.web.rendering import render, wants_fragment

router = APIRouter()

_SHOWN = 50
_LONGEST_IN_ADDRESS = 4_000
"""Characters: percent-encoded, they still fit into what servers read of an address."""
_MOST_CHOSEN = 10_000


@dataclass(frozen=True, slots=True)
class ExampleQuery:
    """What the form or the address asks for."""

    text: str
    chosen: tuple[int, ...]
    min_density: float | None
    max_density: float | None
    in_address: bool

    def address(self, sae: SaeDetail) -> str:
        """A link that gives the same result."""
        query: list[tuple[str, object]] = [("run", 1), ("text", self.text), *(("token", each) for each in self.chosen)]
        if self.min_density is not None:
            query.append(("min_density", self.min_density))
        if self.max_density != MAX_DENSITY:
            query.append(("max_density", "" if self.max_density is None else self.max_density))
        return f"{_base(sae)}?{urlencode(query)}"


@dataclass(frozen=True, slots=True)
class Listed:
    """A feature that was found, as the list shows it."""

    row: FeatureRow
    found: FoundFeature
    strongest: float
    cells: list[tuple[int, int]]
    """Place among the chosen tokens, and shade, of each that it is active on."""


@router.get("/saes/{sae}/features/by-example")
async def example_form(
    request: Request, sae: Sae, session: Session, inference: Inference, settings: AppSettings
) -> HTMLResponse:
    """The form, filled in with `text` if that is given; with `run=1` the result too."""
    query = request.query_params
    return await _answer(request, sae, session, inference, settings.probe_max_tokens, query, run="run" in query)


@router.post("/saes/{sae}/features/by-example")
async def find_by_example(
    request: Request, sae: Sae, session: Session, inference: Inference, settings: AppSettings
) -> Response:
    """The result; where the text is to stand in the address, a redirection to the address that has it."""
    form = await request.form()
    if "in_address" in form:
        try:
            wanted = _read(form)
        except Unprocessable:
            pass  # said below, where the form is filled in with what was sent
        else:
            if len(wanted.text) <= _LONGEST_IN_ADDRESS:
                return RedirectResponse(wanted.address(sae), status_code=303, headers={"Cache-Control": "no-store"})
    return await _answer(request, sae, session, inference, settings.probe_max_tokens, form, run=True)


async def _answer(
    request: Request,
    sae: SaeDetail,
    session: AsyncSession,
    inference: InferenceClient,
    limit: int,
    sent: "ImmutableMultiDict[str, Any]",
    *,
    run: bool,
) -> HTMLResponse:
    template = "by_example/_result.html" if wants_fragment(request) else "by_example/page.html"
    context: dict[str, Any] = {
        "sae": sae,
        "text": _text(sent),
        "limit": limit,
        "examples": EXAMPLE_PROMPTS,
        "bounds_of": forms.densities,
        "min_density": None,
        "max_density": MAX_DENSITY,
        "in_address": run and request.method == "GET",
        "result": None,
        "error": None,
    }
    try:
        wanted = _read(sent)
        context |= {"min_density": wanted.min_density, "max_density": wanted.max_density}
        context["in_address"] |= wanted.in_address
        if wanted.in_address and len(wanted.text) > _LONGEST_IN_ADDRESS:
            raise Unprocessable(
                f"A text in the address has at most {_LONGEST_IN_ADDRESS:,} characters; this one has "
                f"{len(wanted.text):,}. Shorten it, or keep it out of the address."
            )
        if run and sae.index is not None:
            result = await by_example(
                session,
                inference,
                sae,
                wanted.text,
                chosen=wanted.chosen,
                min_density=wanted.min_density,
                max_density=wanted.max_density,
                limit=_SHOWN,
            )
            context |= await _shown(session, sae, wanted, result)
    except UserError as error:
        return render(request, template, context | {"error": error}, status=error.status)
    response = render(request, template, context)
    if wants_fragment(request):
        response.headers["HX-Replace-Url"] = wanted.address(sae) if request.method == "GET" else _base(sae)
    return response


def _read(sent: "ImmutableMultiDict[str, Any]") -> ExampleQuery:
    """What was sent. Tokens that were chosen in another text than this one are forgotten.

    Raises:
        Unprocessable: it cannot be read.
    """
    text = _text(sent)
    chosen_in = sent.get("chosen_in")
    chosen = sent.getlist("token") if chosen_in in (None, _mark(text)) and "none" not in sent else []
    most = sent.get("max_density")
    return ExampleQuery(
        text=text,
        chosen=_positions(chosen),
        min_density=forms.number("min_density", sent.get("min_density"), 1, forms.SHARE),
        max_density=MAX_DENSITY if most is None else forms.number("max_density", most, 1, forms.SHARE),
        in_address="in_address" in sent,
    )


def _text(sent: "ImmutableMultiDict[str, Any]") -> str:
    text = sent.get("text", "")
    return text.replace("\r\n", "\n") if isinstance(text, str) else ""  # a form may send a file


def _positions(chosen: list[Any]) -> tuple[int, ...]:
    if len(chosen) > _MOST_CHOSEN:
        raise Unprocessable(f"At most {_MOST_CHOSEN:,} tokens can be chosen.")
    try:
        return tuple(sorted({int(each) for each in chosen}))
    except (TypeError, ValueError):
        raise Unprocessable("A token is chosen by its position in the text, a whole number from 0 up.") from None


def _mark(text: str) -> str:
    """Tells whether a text has changed, without being the text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _base(sae: SaeDetail) -> str:
    return f"/saes/{sae.slug}/features/by-example"


async def _shown(session: AsyncSession, sae: SaeDetail, wanted: ExampleQuery, result: ByExample) -> dict[str, Any]:
    """What the result's template needs."""
    found = {feature.index: feature for feature in result.features}
    known = await feature_rows(session, sae, found)
    rows = [known[number] for number in found if number in known]
    tokens = [(token.id, token.bytes, token.special) for token in result.tokens]
    return {
        "result": result,
        "all_chosen": not wanted.chosen,
        "chosen": frozenset(wanted.chosen),
        "chosen_in": _mark(wanted.text),
        "runs": token_text.plain_runs(tokens, lambda at: f"token {tokens[at][0]} · position {at}", lambda at: 0, -1),
        "listed": [_listed(row, found[row.index]) for row in rows],
        "lines": {row.index: token_text.line(row.example, row.max) for row in rows if row.example},
        "health": glossary.health(sae),
    }


def _listed(row: FeatureRow, found: FoundFeature) -> Listed:
    strongest = max(found.activations)
    scale = max(row.max, strongest)
    cells = [(at, token_text.step(value, scale)) for at, value in enumerate(found.activations) if value > 0]
    return Listed(row, found, strongest, cells)
