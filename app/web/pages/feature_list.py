"""The list of features with its filters."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse
from markupsafe import Markup
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import Unprocessable
from app.queries.examples import top_examples
from app.queries.feature_list import (
    EffectFilter,
    FeatureFilter,
    FeaturePage,
    FeatureRow,
    LabelFilter,
    list_features,
)
from app.queries.saes import SaeDetail
from app.web.caching import features_etag, make_etag, raise_if_not_modified
from app.web.components import example_lines, forms, glossary
from app.web.components.export_formats import Format
from app.web.components.formatting import round_percent
from app.web.dependencies import Sae, Session
from app.web.fragments import Fragments
from app.web.rendering import answer, render, text, text_for, wants_fragment
from sae_core.statistics.spec import HEALTH_FLAGS

router = APIRouter()

SORTS = {
    "": ("best match, most coherent", FeatureFilter()),
    "coherence": ("most coherent first", FeatureFilter(sort="coherence", descending=True)),
    "density": ("most active first", FeatureFilter(sort="density", descending=True)),
    "density-asc": ("least active first", FeatureFilter(sort="density", descending=False)),
    "max": ("highest maximum first", FeatureFilter(sort="max", descending=True)),
    "max-asc": ("lowest maximum first", FeatureFilter(sort="max", descending=False)),
    "mean": ("highest mean first", FeatureFilter(sort="mean", descending=True)),
    "mean-asc": ("lowest mean first", FeatureFilter(sort="mean", descending=False)),
    "effect": ("largest effect first", FeatureFilter(sort="effect", descending=True)),
    "index": ("by number", FeatureFilter(sort="index", descending=False)),
    "index-desc": ("by number, backwards", FeatureFilter(sort="index", descending=True)),
}
_MORE = ("effect", "health", "token", "promotes", "topic", "author", "category", "min_max", "max_max")
"""Filters behind the disclosure."""
_ACTIVATION = "an activation, a number from 0 up"
View = Literal["table", "cards"]
_ON_CARD = 3
"""Examples per card."""
_MAX_CHIP = 80
"""Characters of a filter's value above the list."""


@dataclass(frozen=True, slots=True)
class FeatureQuery:
    """A query string. Invalid values are left out of the filter; `error` is the first of them."""

    sort: str
    view: View
    filter: FeatureFilter
    error: Unprocessable | None


@dataclass(frozen=True, slots=True)
class FilterFields:
    """The query string, whose form sends empty values for absent ones."""

    sort: str = ""
    view: str = ""
    q: str = ""
    min_density: str = ""
    max_density: str = ""
    min_max: str = ""
    max_max: str = ""
    health: str = ""
    token: str = ""
    promotes: str = ""
    topic: str = ""
    label: str = ""
    author: str = ""
    category: str = ""
    effect: str = ""
    cursor: str = ""


@router.get("/saes/{sae}/features")
async def feature_list(
    request: Request, sae: Sae, session: Session, fields: Annotated[FilterFields, Depends()]
) -> HTMLResponse:
    """Show the list; for htmx only the part below the filters, or with a cursor only the next rows."""
    query = _read(fields)
    etag = features_etag(request, sae)
    raise_if_not_modified(request, etag)
    is_fragment = wants_fragment(request)
    template = "features/_rows.html" if is_fragment and query.filter.cursor else "features/_results.html"
    try:
        results = await _kept_results(request, session, sae, query, template)
        status = HTTPStatus.OK
    except Unprocessable as error:
        results = _unkept_results(request, sae, query, error)
        status = HTTPStatus(error.status)
    if not is_fragment:
        context = {**_filters(sae, query), "results": results}
        return render(request, "features/list.html", context, status=status, etag=etag)
    response = answer(request, results, status=status, etag=etag)
    if not query.filter.cursor:
        response.headers["HX-Push-Url"] = _address(sae, query)
    elif status != HTTPStatus.OK:  # the cursor is invalid: the error replaces all rows
        response.headers["HX-Retarget"] = "#results"
        response.headers["HX-Reswap"] = "innerHTML"
    return response


async def _kept_results(
    request: Request, session: AsyncSession, sae: SaeDetail, query: FeatureQuery, template: str
) -> Markup:
    """Return the part below the filters, or only the rows: the same for every reader until a label or index changes.

    Raises:
        Unprocessable: the query string, or what it searches for, is not valid.
    """
    if query.error:
        raise query.error
    if not sae.index:
        return _unkept_results(request, sae, query)
    fragments: Fragments = request.app.state.fragments

    async def results() -> str:
        page = await list_features(session, sae, query.filter, with_examples=query.view == "table")
        lines = await _lines(session, sae, query.view, page.rows)
        return text(template, {**_results(sae, query, page), "lines": lines})

    return await fragments.get(make_etag(sae, query, template), results)


def _unkept_results(
    request: Request, sae: SaeDetail, query: FeatureQuery, error: Unprocessable | None = None
) -> Markup:
    """Return the part below the filters without features: an error, or what to do where there is no index."""
    context = _results(sae, query, FeaturePage((), None, 0), error)
    return Markup(text_for(request, "features/_results.html", context))  # noqa: S704 - a template rendered it


def _filters(sae: SaeDetail, query: FeatureQuery) -> dict[str, Any]:
    """Return the context of the form above the list."""
    return {
        "sae": sae,
        "filter": query.filter,
        "sort": query.sort,
        "view": query.view,
        "sorts": _sorts(sae),
        "bounds_of": forms.densities,
        "flags": [(flag, glossary.health_name(flag)) for flag in glossary.health(sae)],
        "more_filters": any(getattr(query.filter, field) != getattr(FeatureFilter(), field) for field in _MORE),
    }


def _sorts(sae: SaeDetail) -> list[tuple[str, str]]:
    """Return the orders with their names; an index without coherence has none by it."""
    if sae.index and sae.index.coherent:
        return [(value, name) for value, (name, _) in SORTS.items()]
    names = {value: name for value, (name, _) in SORTS.items() if value != "coherence"}
    return list((names | {"": "best match, most active"}).items())


def _results(
    sae: SaeDetail, query: FeatureQuery, page: FeaturePage, error: Unprocessable | None = None
) -> dict[str, Any]:
    """Return the context of the list, without the lines of its examples."""
    corrected = replace(query, filter=replace(query.filter, q=page.corrected or query.filter.q))
    return {
        "sae": sae,
        "filter": query.filter,
        "page": page,
        "by_coherence": query.filter.order(sae) == "coherence",
        "error": error,
        "health": glossary.health(sae),
        "corrected_address": _address(sae, corrected),
        "more": _address(sae, corrected, cursor=page.next_cursor) if page.next_cursor else None,
        "view": query.view,
        "views": [(view, _address(sae, replace(query, view=view), cursor=None)) for view in get_args(View)],
        "chips": _chips(sae, query),
        "downloads": _downloads(sae, corrected.filter),
    }


def _read(fields: FilterFields) -> FeatureQuery:
    errors = []

    def read(reader: Callable[..., Any], name: str, *arguments: Any) -> Any:
        try:
            return reader(name, getattr(fields, name), *arguments)
        except Unprocessable as error:
            errors.append(error)
            return None

    sort = read(forms.one_of, "sort", tuple(SORTS)[1:]) or ""
    view: View = read(forms.one_of, "view", get_args(View)) or "table"
    filter = replace(
        SORTS[sort][1],
        q=fields.q.strip(),
        min_density=read(forms.number, "min_density", 1, forms.SHARE),
        max_density=read(forms.number, "max_density", 1, forms.SHARE),
        min_max=read(forms.number, "min_max", sys.float_info.max, _ACTIVATION),
        max_max=read(forms.number, "max_max", sys.float_info.max, _ACTIVATION),
        health=read(forms.one_of, "health", HEALTH_FLAGS),
        token=fields.token,
        promotes=fields.promotes,
        topic=fields.topic,
        label=read(forms.one_of, "label", get_args(LabelFilter)),
        author=fields.author.strip(),
        category=fields.category.strip(),
        effect=read(forms.one_of, "effect", get_args(EffectFilter)),
        cursor=fields.cursor or None,
    )
    return FeatureQuery(sort, view, filter, errors[0] if errors else None)


async def _lines(
    session: AsyncSession, sae: SaeDetail, view: View, rows: Sequence[FeatureRow]
) -> dict[int, list[example_lines.Line]]:
    """Return lines of examples by feature: one for the table, some for cards."""
    if view == "table":
        examples = {row.index: [row.example] for row in rows if row.example}
    else:
        examples = await top_examples(session, sae, [row.index for row in rows], _ON_CARD)
    return {row.index: [example_lines.cut(view, row.max) for view in examples.get(row.index, ())] for row in rows}


@dataclass(frozen=True, slots=True)
class Chip:
    """A filter that is set, and the address of the list without it."""

    name: str
    value: str
    without: str


_NAMES = {
    "q": "search",
    "min_density": "density from",
    "max_density": "density to",
    "min_max": "maximum from",
    "max_max": "maximum to",
    "health": "health",
    "token": "fires on",
    "promotes": "promotes",
    "topic": "topic",
    "label": "labels",
    "author": "labelled by",
    "category": "category",
    "effect": "effect",
}


def _chips(sae: SaeDetail, query: FeatureQuery) -> list[Chip]:
    chips = []
    for field, name in _NAMES.items():
        value, unset = getattr(query.filter, field), getattr(FeatureFilter(), field)
        if value == unset:
            continue
        if field in ("min_density", "max_density"):
            value = round_percent(value)
        elif field == "health":
            value = glossary.health_name(value)
        elif field in ("token", "promotes"):
            value = f"‘{value}’"
        chips.append(Chip(name, _shorten_chip(str(value)), _address(sae, query, **{field: unset})))
    return chips


def _shorten_chip(text: str) -> str:
    return text if len(text) <= _MAX_CHIP else f"{text[:_MAX_CHIP]}…"


def _query(filter: FeatureFilter, **others: str) -> str:
    """Return the shortest query string of a list, without default values."""
    query: dict[str, Any] = {"q": filter.q, **others}
    query |= {field: getattr(filter, field) for field in [*_NAMES, "cursor"]}
    return urlencode({name: value for name, value in query.items() if value not in (None, "")})


def _address(sae: SaeDetail, query: FeatureQuery, **changed: Any) -> str:
    """Return the address of the list, with these fields of its filter changed."""
    view = query.view if query.view != "table" else ""
    parameters = _query(replace(query.filter, **changed), sort=query.sort, view=view)
    return f"/saes/{sae.slug}/features" + (f"?{parameters}" if parameters else "")


def _downloads(sae: SaeDetail, filter: FeatureFilter) -> list[tuple[str, str]]:
    """Return the formats of a download with their addresses, and that of the SAE's labels."""
    query = _query(replace(filter, cursor=None))
    order = urlencode({"sort": filter.order(sae), "descending": str(filter.descending).lower()})
    base = f"/api/v1/saes/{sae.slug}/features/export"
    return [
        (format.upper(), f"{base}?{'&'.join(part for part in (f'format={format}', order, query) if part)}")
        for format in get_args(Format)
    ] + [("labels", f"/api/v1/saes/{sae.slug}/labels/export")]
