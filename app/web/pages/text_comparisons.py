"""What distinguishes two sides of texts: the form, the features ranked, and one of them opened."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import NotFound, Unprocessable, UserError
from app.queries.examples import ExampleTokens, ExampleView
from app.queries.feature_list import FeatureRow, feature_rows
from app.queries.models import get_tokens
from app.queries.saes import SaeDetail
from app.queries.text_comparisons import (
    ComparedFeature,
    FeatureQuery,
    TextComparisonView,
    compared_features,
    comparisons_of_feature,
    list_text_comparisons,
    one_compared_feature,
)
from app.queries.text_readings import readings_of_sae
from app.queries.text_sets import TextSetView, list_text_sets
from app.runs.spec import parse_params, spec_of
from app.runs.submit import request_run
from app.services.feature_groups import feature_on_set
from app.services.text_comparisons import find_text_comparison, side_name
from app.web.components import contrast_text, example_lines, forms
from app.web.components.contrast_text import Note
from app.web.dependencies import AppSettings, BeforeId, FeatureIndex, Sae, Session, Submitter
from app.web.rendering import render, wants_fragment

router = APIRouter()

_MOST_SETS = 200
_MOST_LABELS = 50
_COMPARISONS = 20
ORDERS = {
    "": "strongest first",
    "test": "strongest on held-out texts",
    "difference": "largest difference of rates",
    "d": "largest effect size",
    "q": "smallest q",
    "feature": "by number",
}
_RATES = {"": "any", "0.05": "5 %", "0.1": "10 %", "0.25": "25 %", "0.5": "50 %"}


@dataclass(frozen=True, slots=True)
class Row:
    """A feature in the list."""

    figures: ComparedFeature
    known: FeatureRow | None
    """Its label and tokens; None without an index."""
    snippet: example_lines.Line | None
    """Its strongest example."""
    notes: list[Note]


@dataclass(frozen=True, slots=True)
class Fields:
    """The query string of a comparison, whose form sends empty values for absent ones."""

    direction: str = ""
    sort: str = ""
    differing: str = ""
    tokens: str = ""
    """`no` leaves out features of one token alone."""
    min_rate: str = ""
    cursor: str = ""
    open: str = ""


@router.get("/saes/{sae}/compare-texts")
async def choose(
    request: Request, sae: Sae, session: Session, a: str = "", b: str = "", before: BeforeId = None
) -> HTMLResponse:
    """Show the form that chooses two sides, and the comparisons that there are."""
    return await _form(request, session, sae, a, b, before=before)


@router.post("/saes/{sae}/compare-texts")
async def start(
    request: Request,
    sae: Sae,
    session: Session,
    settings: AppSettings,
    actor: Submitter,
    a: Annotated[str, Form()] = "",
    b: Annotated[str, Form()] = "",
) -> Response:
    """Queue the comparison and show its run; what is wrong is answered with the form."""
    spec = spec_of("compare-texts")
    try:
        if not a or not b:
            raise Unprocessable("Choose both sides: which texts are to be compared with which?")
        params = parse_params(spec, {"sae": sae.slug, "a": a, "b": b})
        run = await request_run(session, spec, params, settings=settings, actor=actor)
    except UserError as error:
        return await _form(request, session, sae, a, b, error=error)
    return RedirectResponse(f"/runs/{run.id}", status_code=303)


@router.get("/saes/{sae}/compare-texts/{id}")
async def comparison(
    request: Request, sae: Sae, id: int, session: Session, fields: Annotated[Fields, Depends()]
) -> HTMLResponse:
    """Show a comparison; for htmx only the list below the filters, or with a cursor only its next rows."""
    view = await find_text_comparison(session, id, sae=sae.slug)
    error: UserError | None = None
    rows: list[Row] = []
    more, total = None, 0
    try:
        page = await compared_features(session, view.id, _read(fields))
        rows, total = await _rows(session, sae, view, page.rows), page.total
        more = _address(sae, view, fields, cursor=page.next_cursor) if page.next_cursor else None
    except Unprocessable as refused:
        error = refused
    context = {
        "sae": sae,
        "comparison": view,
        "detail": view.detail,
        "fields": fields,
        "rows": rows,
        "more": more,
        "total": total,
        "error": error,
        "opened": await _opened(session, sae, view, fields.open) if fields.open else None,
        "orders": ORDERS,
        "rates": _RATES,
        "headline": contrast_text.headline(view),
        "short": contrast_text.short_names(view),
        "verdict": contrast_text.verdict(view),
        "classifier_names": contrast_text.CLASSIFIERS,
        "bar": contrast_text.auroc_bar,
        "words": _words(view),
        "here": _address(sae, view, Fields()),
    }
    status = error.status if error else 200
    if not wants_fragment(request):
        return render(request, "text_comparisons/page.html", context, status=status)
    template = "_rows.html" if fields.cursor and not error else "_results.html"
    response = render(request, f"text_comparisons/{template}", context, status=status)
    if not fields.cursor:
        response.headers["HX-Push-Url"] = _address(sae, view, fields)
    return response


@router.get("/saes/{sae}/compare-texts/{id}/features/{feature}")
async def opened_feature(request: Request, sae: Sae, id: int, feature: int, session: Session) -> Response:
    """Show the examples of one feature; without htmx, the whole comparison with this feature opened."""
    view = await find_text_comparison(session, id, sae=sae.slug)
    opened = await _opened(session, sae, view, str(feature))
    if not wants_fragment(request):
        return RedirectResponse(f"{_address(sae, view, Fields())}?open={feature}#feature-{feature}", status_code=303)
    return render(request, "text_comparisons/_opened.html", {"sae": sae, "comparison": view, "opened": opened})


@router.get("/saes/{sae}/features/{index}/texts")
async def on_texts(request: Request, sae: Sae, index: FeatureIndex, session: Session, set: str = "") -> HTMLResponse:
    """Show how often a feature is active on the groups of a text set, and the comparisons in which it was tested."""
    readings = await readings_of_sae(session, sae.id)
    names = list(dict.fromkeys(reading.set_name for reading in readings))
    if set and set not in names:
        raise NotFound(f"{sae.slug} has not read a text set named “{set[:100]}”.")
    shown = set or (names[0] if names else "")
    context = {
        "sae": sae,
        "index": index,
        "known": (await feature_rows(session, sae, [index])).get(index),
        "names": names,
        "shown": shown,
        "found": await feature_on_set(session, sae, index, shown) if shown else None,
        "comparisons": await comparisons_of_feature(session, sae.id, index, limit=_COMPARISONS),
        "bar": contrast_text.auroc_bar,
    }
    return render(request, "text_comparisons/feature.html", context)


async def _form(
    request: Request,
    session: AsyncSession,
    sae: SaeDetail,
    a: str,
    b: str,
    *,
    before: int | None = None,
    error: UserError | None = None,
) -> HTMLResponse:
    sets, _ = await list_text_sets(session, limit=_MOST_SETS)
    found, following = await list_text_comparisons(session, sae_id=sae.id, limit=_COMPARISONS, before=before)
    context = {
        "sae": sae,
        "sides": [(view.name, _sides(view)) for view in sets],
        "a": a,
        "b": b,
        "error": error,
        "comparisons": [(view, contrast_text.headline(view)) for view in found],
        "before": before,
        "more": f"/saes/{sae.slug}/compare-texts?before={following}" if following else None,
    }
    return render(request, "text_comparisons/choose.html", context, status=error.status if error else 200)


def _sides(view: TextSetView) -> list[tuple[str, str, int]]:
    """Return the sides that a set offers: value, name and number of texts, the whole set first."""
    labels = sorted(view.counts.labels.items(), key=lambda entry: (-entry[1], entry[0]))[:_MOST_LABELS]
    named = [(side_name(view.name, label), label, texts) for label, texts in labels]
    return [(view.name, "all texts", view.counts.texts), *named]


def _read(fields: Fields) -> FeatureQuery:
    """Return the query that the fields ask for.

    Raises:
        Unprocessable: one of them is not valid.
    """
    order = forms.one_of("sort", fields.sort, tuple(ORDERS)[1:]) or "strength"
    direction = forms.one_of("direction", fields.direction, ("a", "b"))
    min_rate = forms.number("min_rate", fields.min_rate, 1, "a share of texts from 0 to 1, such as 0.1 for 10 %")
    return FeatureQuery(
        direction=direction,  # type: ignore[arg-type]  # checked above
        order=order,  # type: ignore[arg-type]
        differing=bool(fields.differing),
        without_tokens=fields.tokens == "no",
        min_rate=min_rate or 0.0,
        cursor=fields.cursor or None,
    )


def _address(sae: SaeDetail, view: TextComparisonView, fields: Fields, *, cursor: str | None = None) -> str:
    """Return the address of a comparison with these filters."""
    query = {name: getattr(fields, name) for name in ("direction", "sort", "differing", "tokens", "min_rate")}
    given = {name: value for name, value in {**query, "cursor": cursor}.items() if value}
    return f"/saes/{sae.slug}/compare-texts/{view.id}" + (f"?{urlencode(given)}" if given else "")


async def _rows(
    session: AsyncSession, sae: SaeDetail, view: TextComparisonView, rows: Sequence[ComparedFeature]
) -> list[Row]:
    known = await feature_rows(session, sae, [row.feature for row in rows], with_examples=False)
    tokens = await get_tokens(session, sae.model.id, [row.token_id for row in rows if row.token_id is not None])
    found = []
    for row in rows:
        examples = await _examples(session, sae, row, of_side=row.direction, most=1) if not view.offensive else []
        found.append(
            Row(
                figures=row,
                known=known.get(row.feature),
                snippet=example_lines.cut(examples[0], examples[0].peak) if examples else None,
                notes=contrast_text.notes_of(row, b"" if row.token_id is None else tokens[row.token_id].bytes),
            )
        )
    return found


@dataclass(frozen=True, slots=True)
class OpenedFeature:
    """A feature with its examples of each side, one line each."""

    figures: ComparedFeature
    a: list[example_lines.Line]
    b: list[example_lines.Line]


async def _opened(session: AsyncSession, sae: SaeDetail, view: TextComparisonView, feature: str) -> OpenedFeature:
    number = int(feature) if feature.isascii() and feature.isdecimal() and len(feature) < 9 else -1
    row = await one_compared_feature(session, view.id, number)
    if row is None:
        raise NotFound(f"Feature {feature[:20]} was not tested: it is active on fewer than three of these texts.")
    examples = {side: await _examples(session, sae, row, of_side=side) for side in ("a", "b")}
    scale = max((example.peak for own in examples.values() for example in own), default=1.0)
    lines = {side: [example_lines.cut(example, scale) for example in own] for side, own in examples.items()}
    return OpenedFeature(row, lines["a"], lines["b"])


async def _examples(
    session: AsyncSession, sae: SaeDetail, row: ComparedFeature, *, of_side: str, most: int | None = None
) -> list[ExampleView]:
    """Return a feature's stored examples of one side, the strongest first."""
    stored = [own for own in row.examples or () if own["side"] == of_side][:most]
    tokens = await get_tokens(session, sae.model.id, [token for own in stored for token in own["tokens"]])
    return [
        ExampleView(
            band=0,
            rank=rank,
            sequence=own["text"],
            position=own["start"] + own["peak"],
            activation=own["values"][own["peak"]],
            document=None,
            start=own["start"],
            tokens=ExampleTokens(own["tokens"], own["start"], _above_zero(own), tokens),
            peak=max(own["values"]),
        )
        for rank, own in enumerate(stored)
    ]


def _above_zero(own: Mapping[str, Any]) -> dict[int, float]:
    """Return a stored example's activations by position."""
    return {place: value for place, value in enumerate(own["values"], own["start"]) if value > 0}


def _words(view: TextComparisonView) -> dict[str, list[dict[str, Any]]]:
    """Return the words that each side has more of, the strongest first."""
    words = view.detail["words"]
    ranked = sorted(words, key=lambda word: -abs(word["auroc"] - 0.5))
    return {
        "a": [word for word in ranked if word["auroc"] > 0.5],
        "b": [word for word in ranked if word["auroc"] < 0.5],
    }
