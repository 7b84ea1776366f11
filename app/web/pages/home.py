"""The first page: every SAE, the runs in progress, and how to start."""

from collections.abc import Iterable
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import HTMLResponse
from sqlalchemy.ext.asyncio import AsyncSession

from app.queries.feature_list import MAX_LIMIT, MAX_QUERY, FeatureFilter, FeatureRow, feature_rows, list_features
from app.queries.runs import list_active
from app.queries.saes import SaeDetail, list_saes
from app.web.components import example_lines, glossary
from app.web.components.run_card import MOST_LIVE, card
from app.web.components.sae_list import SaeQuery, sae_list
from app.web.dependencies import Session, last_sae
from app.web.rendering import render, wants_fragment

router = APIRouter()

_SAMPLE_SIZE = 8
_COMPARED = 4
"""Top tokens that a row shows, of which no two features of the sample share one."""


Text = Annotated[str, Query(max_length=MAX_QUERY)]


async def _query(q: Text = "", model: Text = "", after: Text = "") -> SaeQuery:
    return SaeQuery(q, model, after)


@router.get("/")
async def home(request: Request, session: Session, query: Annotated[SaeQuery, Depends(_query)]) -> HTMLResponse:
    """Show the SAEs that match, by model, and the newest runs that have not ended."""
    runs = await list_active(session)
    saes = await list_saes(session)
    listed = sae_list(saes, query)
    is_first = not query.is_filtered and listed.first is None
    shown = last_sae(request, saes) if is_first else None
    sample = await _sample_features(session, shown) if shown else ()
    context = {
        "listed": listed,
        "active": [card(run) for run in runs[:MOST_LIVE]],
        "shown": shown,
        "sample": sample,
        "lines": {row.index: example_lines.cut(row.example, row.max) for row in sample if row.example},
        "health": glossary.health(shown) if shown else {},
    }
    return render(request, "home/_saes.html" if wants_fragment(request) else "home/page.html", context)


async def _sample_features(session: AsyncSession, sae: SaeDetail) -> tuple[FeatureRow, ...]:
    """Return a few features: labelled ones if there are enough, else the most coherent ones of different words.

    An index without coherence gives strong features rarer than the average, which is L0 / d_sae. Features around it are
    mostly about grammar, much rarer ones have few examples.
    """
    if sae.labelled >= _SAMPLE_SIZE:
        return (await list_features(session, sae, FeatureFilter(sort="max", label="labelled", limit=_SAMPLE_SIZE))).rows
    if sae.index and sae.index.coherent:
        most = await list_features(session, sae, FeatureFilter(sort="coherence", limit=MAX_LIMIT), with_examples=False)
        numbers = [row.index for row in _of_different_words(most.rows)][:_SAMPLE_SIZE]
        found = await feature_rows(session, sae, numbers)
        return tuple(found[number] for number in numbers)
    average = (sae.metrics.get("l0") or sae.k or 32) / sae.d_sae
    filter = FeatureFilter(
        sort="max", min_density=min(average / 8, 1), max_density=min(average / 2, 1), limit=_SAMPLE_SIZE
    )
    return (await list_features(session, sae, filter)).rows


def _of_different_words(rows: Iterable[FeatureRow]) -> list[FeatureRow]:
    """Return the features that share none of their top tokens, less blanks and case, with one before them."""
    seen: set[bytes] = set()
    chosen = []
    for row in rows:
        words = {token.bytes.strip().lower() for token in row.top_tokens[:_COMPARED]}
        if not words & seen:
            chosen.append(row)
            seen |= words
    return chosen
