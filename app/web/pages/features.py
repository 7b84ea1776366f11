"""One feature, and one of its sequences."""

import random
from dataclasses import dataclass

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import NotFound
from app.queries.examples import ExampleView, best_examples, get_examples
from app.queries.features import CoactiveFeature, FeatureDetail, NearFeature, features_around, get_feature
from app.queries.saes import SaeDetail
from app.web import figures, strips, words
from app.web.caching import features_tag, refuse_known
from app.web.dependencies import AppSettings, FeatureIndex, Sae, Session
from app.web.pages.labels import author_of, panel
from app.web.rendering import render, wants_fragment

router = APIRouter()

_SNIPPET = {"before": 5, "after": 3}


@dataclass(frozen=True, slots=True)
class Example:
    """An example with its line."""

    view: ExampleView
    line: strips.Line


@dataclass(frozen=True, slots=True)
class Band:
    """A fifth of a feature's activations, from `low` to `high`, with examples drawn from it."""

    name: str
    low: float
    high: float
    examples: list[Example]


@router.get("/saes/{sae}/features/random")
async def random_feature(sae: Sae, session: Session) -> RedirectResponse:
    """Any feature; of an index that has only some, any of those."""
    index = random.randrange(sae.d_sae)
    if 0 < sae.indexed < sae.d_sae:
        before, after = await features_around(session, sae, index)
        index = after if after is not None else before if before is not None else index
    address = f"/saes/{sae.slug}/features/{index}"
    return RedirectResponse(address, status_code=303, headers={"Cache-Control": "no-store"})


@router.get("/saes/{sae}/features/{index}")
async def feature(
    request: Request, sae: Sae, index: FeatureIndex, session: Session, settings: AppSettings
) -> HTMLResponse:
    """Everything about one feature."""
    author = author_of(request, settings)
    etag = features_tag(request, sae, author)
    refuse_known(request, etag)
    detail = await _detail(session, sae, index)
    previous, following = await features_around(session, sae, index)
    examples: dict[int, list[Example]] = {}
    for view in await get_examples(session, sae, index, with_documents=False):
        examples.setdefault(view.band, []).append(Example(view, strips.line(view, detail.max)))
    context = {
        "sae": sae,
        "index": index,
        "detail": detail,
        "previous": previous,
        "next": following,
        "histogram": _histogram(sae, detail),
        "top": examples.get(0, []),
        "bands": _bands(detail, examples),
        "snippets": await _snippets(session, sae, detail),
        "health": words.health(sae),
        "not_counted": words.not_counted(sae),
        **await panel(session, sae, index, detail.labels, author, is_open="label" in request.query_params),
    }
    return render(request, "features/page.html", context, etag=etag)


@router.get("/saes/{sae}/features/{index}/examples/{sequence}")
async def example(
    request: Request, sae: Sae, index: FeatureIndex, sequence: int, session: Session, band: int | None = None
) -> HTMLResponse:
    """The whole sequence of one example; for htmx only the text."""
    detail = await _detail(session, sae, index)
    found = [view for view in await get_examples(session, sae, index, band=band) if view.sequence == sequence]
    if not found:
        raise NotFound(f"Sequence {sequence} is not among the examples of feature {index}; its page lists them.")
    context = {
        "sae": sae,
        "index": index,
        "here": f"/saes/{sae.slug}/features/{index}",
        "example": found[0],
        "maximum": detail.max,
        "runs": strips.sequence(found[0], detail.max),
    }
    return render(request, "features/_sequence.html" if wants_fragment(request) else "features/example.html", context)


async def _detail(session: AsyncSession, sae: SaeDetail, index: int) -> FeatureDetail:
    detail = await get_feature(session, sae, index)
    if detail is None and sae.index is not None:
        raise NotFound(
            f"Feature {index} is not in the export that {sae.slug} was imported from, which describes {sae.indexed:,} "
            f"of its {sae.d_sae:,}: nothing is known of it, not even whether it is dead."
        )
    if detail is None:
        raise NotFound(
            f"{sae.slug} has no index yet, so feature {index} cannot be shown. Runs shows if one is being made."
        )
    return detail


async def _snippets(session: AsyncSession, sae: SaeDetail, detail: FeatureDetail) -> dict[int, strips.Line]:
    """A few words around the strongest token of each neighbour that has no label to be known by."""
    neighbours: list[CoactiveFeature | NearFeature] = [*detail.coactive, *detail.near]
    unlabelled = {other.index for other in neighbours if other.label is None}
    views = await best_examples(session, sae, sorted(unlabelled), **_SNIPPET)
    return {index: strips.line(view, view.activation) for index, view in views.items()}


def _histogram(sae: SaeDetail, detail: FeatureDetail) -> figures.Chart | None:
    """The chart of its activations; None where there is nothing to draw."""
    if not any(detail.histogram.counts):
        return None
    divided = "the export's intervals" if words.is_imported_index(sae) else "fifths"
    return figures.activation_histogram(detail.histogram, detail.band_edges, divided=divided)


def _bands(detail: FeatureDetail, examples: dict[int, list[Example]]) -> list[Band]:
    edges = detail.band_edges
    return [
        Band(name, edges[number - 1], edges[number], examples[number])
        for number, name in words.BANDS.items()
        if number in examples
    ]
