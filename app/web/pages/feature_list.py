"""The list of features with its filters."""

import sys
from dataclasses import dataclass, replace
from typing import Any, get_args
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from starlette.datastructures import QueryParams

from app.errors import Unprocessable
from app.queries.feature_list import FeatureFilter, FeaturePage, Health, LabelFilter, list_features
from app.queries.saes import SaeDetail
from app.web import strips, words
from app.web.api.export import Format
from app.web.caching import features_tag, refuse_known
from app.web.dependencies import Sae, Session
from app.web.formatting import round_percent
from app.web.rendering import render, wants_fragment

router = APIRouter()

SORTS = {
    "density": ("most active first", FeatureFilter(sort="density", descending=True)),
    "density-asc": ("least active first", FeatureFilter(sort="density", descending=False)),
    "max": ("highest maximum first", FeatureFilter(sort="max", descending=True)),
    "max-asc": ("lowest maximum first", FeatureFilter(sort="max", descending=False)),
    "mean": ("highest mean first", FeatureFilter(sort="mean", descending=True)),
    "mean-asc": ("lowest mean first", FeatureFilter(sort="mean", descending=False)),
    "index": ("by number", FeatureFilter(sort="index", descending=False)),
    "index-desc": ("by number, backwards", FeatureFilter(sort="index", descending=True)),
}
_MORE = ("health", "token", "promotes", "topic", "author", "category", "min_max", "max_max")
"""Filters behind the disclosure."""
_SHARE = "a share of tokens from 0 to 1, such as 0.001 for 0.1 %"
_ACTIVATION = "an activation, a number from 0 up"
_BOUNDS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)


@router.get("/saes/{sae}/features")
async def feature_list(request: Request, sae: Sae, session: Session) -> HTMLResponse:
    """The list; for htmx only the part below the filters, or with a cursor only the next rows."""
    sort, wanted = _filter(request)
    etag = features_tag(request, sae)
    refuse_known(request, etag)
    page, error = FeaturePage((), None, 0), None
    try:
        page = await list_features(session, sae, wanted)
    except Unprocessable as refused:
        if wants_fragment(request):
            raise
        error = refused  # shown below the filters, which are there to be mended
    more = _address(sae, sort, replace(wanted, cursor=page.next_cursor)) if page.next_cursor else None
    context = {
        "sae": sae,
        "page": page,
        "error": error,
        "lines": {row.index: strips.line(row.example, row.max) for row in page.rows if row.example},
        "health": words.health(sae),
        "more": more,
        "filter": wanted,
        "sort": sort,
        "sorts": [(value, name) for value, (name, _) in SORTS.items()],
        "bounds_of": _bounds,
        "chips": _chips(sae, sort, wanted),
        "downloads": _downloads(sae, replace(wanted, cursor=None)),
        "flags": [(flag, words.health_name(flag)) for flag in words.health(sae)],
        "more_filters": any(getattr(wanted, field) != getattr(FeatureFilter(), field) for field in _MORE),
    }
    if not wants_fragment(request):
        return render(request, "features/list.html", context, status=error.status if error else 200, etag=etag)
    if wanted.cursor:
        return render(request, "features/_rows.html", context, etag=etag)
    response = render(request, "features/_results.html", context, etag=etag)
    response.headers["HX-Push-Url"] = _address(sae, sort, wanted)
    return response


def _filter(request: Request) -> tuple[str, FeatureFilter]:
    """The filters of the query string; empty ones count as absent, as a form sends them."""
    query = request.query_params
    sort = query.get("sort") or "density"
    if sort not in SORTS:
        raise Unprocessable(f"Features cannot be sorted by “{sort[:40]}”: use one of {', '.join(SORTS)}.")
    wanted = replace(
        SORTS[sort][1],
        q=query.get("q", "").strip(),
        min_density=_bound(query, "min_density", 1, _SHARE),
        max_density=_bound(query, "max_density", 1, _SHARE),
        min_max=_bound(query, "min_max", sys.float_info.max, _ACTIVATION),
        max_max=_bound(query, "max_max", sys.float_info.max, _ACTIVATION),
        health=_one_of("health", query.get("health"), get_args(Health)),
        token=query.get("token", ""),
        promotes=query.get("promotes", ""),
        topic=query.get("topic", ""),
        label=_one_of("label", query.get("label"), get_args(LabelFilter)),
        author=query.get("author", "").strip(),
        category=query.get("category", "").strip(),
        cursor=query.get("cursor") or None,
    )
    return sort, wanted


def _one_of(name: str, value: str | None, known: tuple[str, ...]) -> Any:
    if value and value not in known:
        raise Unprocessable(f"“{value[:40]}” is no {name} to filter by: use {', '.join(known)}, or none.")
    return value or None


def _bound(query: QueryParams, name: str, most: float, what: str) -> float | None:
    """A number from 0 to `most`, of which `what` says what it is."""
    value = query.get(name)
    if not value:
        return None
    try:
        number = float(value)
    except ValueError:
        number = -1.0
    if not 0 <= number <= most:
        raise Unprocessable(f"{name} is {what}; “{value[:40]}” is not.")
    return number


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
}


def _chips(sae: SaeDetail, sort: str, wanted: FeatureFilter) -> list[Chip]:
    chips = []
    for field, name in _NAMES.items():
        value, unset = getattr(wanted, field), getattr(FeatureFilter(), field)
        if value == unset:
            continue
        if field in ("min_density", "max_density"):
            value = round_percent(value)
        elif field == "health":
            value = words.health_name(value)
        elif field in ("token", "promotes"):
            value = f"‘{value}’"
        chips.append(Chip(name, str(value), _address(sae, sort, replace(wanted, **{field: unset}))))
    return chips


def _bounds(selected: float | None) -> list[tuple[float, str]]:
    """Densities to choose from, and the one in the address if it is another."""
    values = sorted({*_BOUNDS, *([] if selected is None else [selected])})
    return [(value, round_percent(value)) for value in values]


def _query(sort: str, wanted: FeatureFilter) -> str:
    """The shortest query string of a list: what is as by default is left out."""
    query: dict[str, Any] = {"q": wanted.q, "sort": sort if sort != "density" else ""}
    query |= {field: getattr(wanted, field) for field in [*_NAMES, "cursor"]}
    return urlencode({name: value for name, value in query.items() if value not in (None, "")})


def _address(sae: SaeDetail, sort: str, wanted: FeatureFilter) -> str:
    query = _query(sort, wanted)
    return f"/saes/{sae.slug}/features" + (f"?{query}" if query else "")


def _downloads(sae: SaeDetail, wanted: FeatureFilter) -> list[tuple[str, str]]:
    """Formats, and where the list can be had in them."""
    query = _query("", wanted)
    order = urlencode({"sort": wanted.sort, "descending": str(wanted.descending).lower()})
    base = f"/api/v1/saes/{sae.slug}/features/export"
    return [
        (format.upper(), f"{base}?{'&'.join(filter(None, [f'format={format}', order, query]))}")
        for format in get_args(Format)
    ]
