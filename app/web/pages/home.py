"""The first page: every SAE, the work that is under way, and what to do when there is nothing yet."""

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from app.queries.features import FeatureFilter, list_features
from app.queries.runs import list_runs
from app.queries.saes import list_saes
from app.web import strips, words
from app.web.dependencies import Session
from app.web.pages.runs import ACTIVE, MOST_LIVE, card
from app.web.rendering import render, wants_fragment

router = APIRouter()

_TASTE = FeatureFilter(sort="max", max_density=0.02, limit=8)
"""A few features to begin with: the strongest of those that are not active everywhere."""


@router.get("/")
async def home(request: Request, session: Session) -> HTMLResponse:
    """All SAEs and the newest runs that have not ended."""
    runs = [run for run in await list_runs(session, limit=20) if run.state in ACTIVE]
    saes = await list_saes(session)
    newest = next((sae for sae in saes if sae.index), None)
    taste = (await list_features(session, newest, _TASTE)).rows if newest else ()
    context = {
        "saes": saes,
        "active": [card(run) for run in runs[:MOST_LIVE]],
        "newest": newest,
        "taste": taste,
        "lines": {row.index: strips.line(row.example, row.max) for row in taste if row.example},
        "health": words.HEALTH,
    }
    return render(request, "home/_saes.html" if wants_fragment(request) else "home/page.html", context)
