"""Features by example: paste text, choose tokens, see the features that are unusually active on them.

The text comes by POST and is not kept. If the reader chooses a link to the result, the text is in the address.
"""

import hashlib
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.datastructures import ImmutableMultiDict

from app.errors import Unprocessable, UserError
from app.queries.feature_list import FeatureRow, feature_rows
from app.queries.saes import SaeDetail
from app.services.by_example import MAX_CHOSEN, MAX_DENSITY, ByExample, FoundFeature, by_example
from app.services.inference import InferenceClient
from app.services.texts import unix_lines
from app.web.components import example_lines, forms, glossary, token_text
from app.web.components.formatting import count
from app.web.components.prompts import EXAMPLE_PROMPTS
from app.web.dependencies import AppSettings, Inference, Sae, Session
from app.web.rendering import render, wants_fragment

router = APIRouter()

_LIMIT = 50
_MAX_IN_ADDRESS = 4_000
"""Characters that fit, percent-encoded, into the addresses that servers accept."""

Sent = ImmutableMultiDict[str, Any]
"""Fields of a form or of a query string."""
_NOTHING: Sent = ImmutableMultiDict()


@dataclass(frozen=True, slots=True)
class ExampleQuery:
    """A text, the tokens chosen in it, and the density range to look in."""

    text: str
    chosen: tuple[int, ...]
    min_density: float | None
    max_density: float | None
    in_address: bool

    def address(self, sae: SaeDetail) -> str:
        """Return a link that gives the same result."""
        tokens = [("token", position) for position in self.chosen]
        pairs: list[tuple[str, object]] = [("run", 1), ("text", self.text), *tokens]
        if self.min_density is not None:
            pairs.append(("min_density", self.min_density))
        if self.max_density != MAX_DENSITY:
            pairs.append(("max_density", "" if self.max_density is None else self.max_density))
        return f"{_base(sae)}?{urlencode(pairs)}"

    def check_address(self) -> None:
        """Raise if the text is too long for the address that would contain it.

        Raises:
            Unprocessable: it is too long.
        """
        if self.in_address and len(self.text) > _MAX_IN_ADDRESS:
            raise Unprocessable(
                f"A text in the address has at most {_MAX_IN_ADDRESS:,} characters; this one has "
                f"{len(self.text):,}. Shorten it, or keep it out of the address."
            )


@dataclass(frozen=True, slots=True)
class ExampleForm:
    """Values of the form."""

    text: str
    in_address: bool
    min_density: float | None = None
    max_density: float | None = MAX_DENSITY


@dataclass(frozen=True, slots=True)
class FoundRow:
    """A row of the list of found features."""

    row: FeatureRow
    found: FoundFeature
    line: example_lines.Line | None
    strongest: float
    cells: list[tuple[int, int]]
    """Index among the chosen tokens, and shade, of each token on which it is active."""


@dataclass(frozen=True, slots=True)
class Result:
    """The text's tokens, from which the reader chooses, and the found features."""

    found: ByExample
    runs: tuple[token_text.Run, ...]
    chosen: frozenset[int]
    """Chosen positions; empty if all tokens count."""
    chosen_in: str
    """Hash of the text in which they were chosen."""
    features: list[FoundRow]

    @property
    def tokens_note(self) -> str:
        """Return how many tokens the features are ranked by."""
        if not self.chosen:
            return f"none chosen, so all {count(len(self.found.chosen))} count; choose those that matter"
        selectable = sum(not token.special for token in self.found.tokens)
        return f"{count(len(self.found.chosen))} of {count(selectable)} chosen"

    @property
    def features_note(self) -> str:
        """Return how many features were found, of how many."""
        within = f"{count(self.found.within)} within the density range"
        if self.found.within > len(self.features):
            within = f"{len(self.features)} of {within}"
        tokens = "any of these tokens" if not self.chosen or len(self.found.chosen) > 1 else "this token"
        return f"{within}, of {count(self.found.active)} active on {tokens}"

    @property
    def columns_note(self) -> str:
        """Return the meaning of the list's columns."""
        several = len(self.found.chosen) > 1
        where = "the chosen tokens, and where among them it is active" if several else "the chosen token"
        mean = (
            ", as a mean over the chosen tokens, where 0 stands for those that it is not active on" if several else ""
        )
        return (
            f"Here: the strongest activation on {where}. Percentile: the share of a feature's activations in the "
            f"corpus that are weaker than this one{mean}."
        )


async def _declare(
    run: str = "",
    text: str = "",
    token: Annotated[list[str] | None, Query()] = None,
    chosen_in: str = "",
    none: str = "",
    min_density: str = "",
    max_density: str = "",
    in_address: str = "",
) -> None:
    """Declare the query string, which is read as the form is."""


@router.get("/saes/{sae}/features/by-example", dependencies=[Depends(_declare)])
async def example_form(
    request: Request, sae: Sae, session: Session, inference: Inference, settings: AppSettings
) -> HTMLResponse:
    """Show the form, filled in with `text`; with `run=1`, the result too."""
    sent = request.query_params
    view = _View(request, sae, settings.probe_max_tokens)
    if "run" not in sent:
        return _fill_in(view, sent)
    return await _search(view, session, inference, sent, in_address=True)


@router.post("/saes/{sae}/features/by-example")
async def find_by_example(
    request: Request, sae: Sae, session: Session, inference: Inference, settings: AppSettings
) -> Response:
    """Show the result, or redirect to the address that contains the text."""
    form = await request.form()
    if "in_address" in form:
        try:
            query = _read(form)
            query.check_address()
        except Unprocessable:
            pass  # answered below, with the form as it was sent
        else:
            return RedirectResponse(query.address(sae), status_code=303, headers={"Cache-Control": "no-store"})
    return await _search(_View(request, sae, settings.probe_max_tokens), session, inference, form, in_address=False)


@dataclass(frozen=True, slots=True)
class _View:
    """The page, or for htmx the part below the form."""

    request: Request
    sae: SaeDetail
    limit: int
    """Tokens of the longest text."""

    def render(
        self, form: ExampleForm, *, result: Result | None = None, error: UserError | None = None, sent: Sent = _NOTHING
    ) -> HTMLResponse:
        """Return the form, with the result or the error below it; `sent` is what another attempt sends."""
        template = "by_example/_result.html" if wants_fragment(self.request) else "by_example/page.html"
        context = {
            "sae": self.sae,
            "form": form,
            "limit": self.limit,
            "examples": EXAMPLE_PROMPTS,
            "bounds_of": forms.densities,
            "health": glossary.health(self.sae),
            "result": result,
            "error": error,
            "sent": [(name, value) for name, value in sent.multi_items() if isinstance(value, str)],
        }
        return render(self.request, template, context, status=error.status if error else 200)


def _fill_in(view: _View, sent: Sent) -> HTMLResponse:
    """Return the form as the address fills it in, without a result."""
    form = ExampleForm(_text(sent), in_address=False)
    try:
        query = _read(sent)
        form = _form(query, in_address=False)
        query.check_address()
    except UserError as error:
        return view.render(form, error=error)
    return _with_address(view, view.render(form), query)


async def _search(
    view: _View, session: AsyncSession, inference: InferenceClient, sent: Sent, *, in_address: bool
) -> HTMLResponse:
    """Return the form as it was sent, with the result or the error."""
    form, result = ExampleForm(_text(sent), in_address), None
    try:
        query = _read(sent)
        form = _form(query, in_address=in_address)
        query.check_address()
        if view.sae.index is not None:
            result = await _find(session, inference, view.sae, query)
    except UserError as error:
        again = [(name, value) for name, value in sent.multi_items() if name not in ("run", "in_address")]
        if form.in_address:
            again.append(("in_address", "1"))
        return view.render(form, error=error, sent=ImmutableMultiDict(again))
    return _with_address(view, view.render(form, result=result), query)


def _form(query: ExampleQuery, *, in_address: bool) -> ExampleForm:
    return ExampleForm(query.text, in_address or query.in_address, query.min_density, query.max_density)


def _with_address(view: _View, response: HTMLResponse, query: ExampleQuery) -> HTMLResponse:
    """Let htmx show the address of this answer, without a text that came by POST."""
    if wants_fragment(view.request):
        address = query.address(view.sae) if view.request.method == "GET" else _base(view.sae)
        response.headers["HX-Replace-Url"] = address
    return response


def _read(sent: Sent) -> ExampleQuery:
    """Return the query that was sent, without tokens that were chosen in another text.

    Raises:
        Unprocessable: it cannot be read.
    """
    text = _text(sent)
    chosen_in = sent.get("chosen_in")
    chosen = sent.getlist("token") if chosen_in in (None, _text_hash(text)) and "none" not in sent else []
    most = sent.get("max_density")
    return ExampleQuery(
        text=text,
        chosen=_positions(chosen),
        min_density=forms.number("min_density", sent.get("min_density"), 1, forms.SHARE),
        max_density=MAX_DENSITY if most is None else forms.number("max_density", most, 1, forms.SHARE),
        in_address="in_address" in sent,
    )


def _text(sent: Sent) -> str:
    text = sent.get("text", "")
    return unix_lines(text) if isinstance(text, str) else ""  # a form may send a file


def _positions(chosen: list[Any]) -> tuple[int, ...]:
    if len(chosen) > MAX_CHOSEN:
        raise Unprocessable(f"At most {MAX_CHOSEN:,} tokens can be chosen.")
    try:
        return tuple(sorted({int(position) for position in chosen}))
    except (TypeError, ValueError):
        raise Unprocessable("A token is chosen by its position in the text, a whole number from 0 up.") from None


def _text_hash(text: str) -> str:
    """Return a hash of the text, which changes with it."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def _base(sae: SaeDetail) -> str:
    return f"/saes/{sae.slug}/features/by-example"


async def _find(session: AsyncSession, inference: InferenceClient, sae: SaeDetail, query: ExampleQuery) -> Result:
    found = await by_example(
        session,
        inference,
        sae,
        query.text,
        chosen=query.chosen,
        min_density=query.min_density,
        max_density=query.max_density,
        limit=_LIMIT,
    )
    rows = await feature_rows(session, sae, [feature.index for feature in found.features])
    tokens = [(token.id, token.bytes, token.special) for token in found.tokens]
    return Result(
        found=found,
        runs=token_text.plain_runs(tokens, lambda at: f"token {tokens[at][0]} · position {at}", lambda at: 0, -1),
        chosen=frozenset(query.chosen),
        chosen_in=_text_hash(query.text),
        features=[_found_row(rows[feature.index], feature) for feature in found.features if feature.index in rows],
    )


def _found_row(row: FeatureRow, found: FoundFeature) -> FoundRow:
    strongest = max(found.activations)
    scale = max(row.max, strongest)
    cells = [(at, token_text.step(value, scale)) for at, value in enumerate(found.activations) if value > 0]
    return FoundRow(row, found, example_lines.cut(row.example, row.max) if row.example else None, strongest, cells)
