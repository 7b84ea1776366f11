"""The dictionary of an SAE: agreed labels, searchable, with the address by which it is cited."""

from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from app.queries.sql.pg_safe import MAX_INTEGER
from app.services.dictionary import RULE, bibtex, current_hash, find_citation, read_dictionary
from app.web.components.dictionary_models import EntryOut
from app.web.dependencies import AppSettings, Sae, Session
from app.web.rendering import render

router = APIRouter()

_PAGE = 100


@router.get("/saes/{sae}/dictionary")
async def dictionary(
    request: Request,
    sae: Sae,
    session: Session,
    settings: AppSettings,
    q: Annotated[str, Query(max_length=200)] = "",
    index: Annotated[str, Query(max_length=40)] = "",
    after: Annotated[int, Query(ge=-1, le=MAX_INTEGER)] = -1,
) -> HTMLResponse:
    """Show the features whose meaning is agreed; with the hash of an earlier index, say that there is a newer one."""
    here = f"/saes/{sae.slug}/dictionary"
    hashed = current_hash(sae)
    entries = await read_dictionary(session, sae, search=q)
    following = [entry for entry in entries if entry.agreed.feature > after]
    shown = [EntryOut.of(sae.slug, hashed, entry) for entry in following[:_PAGE]]
    site = str(settings.base_url or request.base_url).rstrip("/")
    address = f"{site}{here}?index={hashed}"
    kept = {name: value for name, value in (("q", q), ("index", index)) if value}
    context = {
        "sae": sae,
        "entries": shown,
        "total": len(entries),
        "q": q,
        "rule": RULE,
        "hash": hashed,
        "cited": await find_citation(session, sae, index) if index else None,
        "address": address,
        "bibtex": bibtex(sae, address, len(entries)),
        "more": f"{here}?{urlencode(kept | {'after': shown[-1].feature})}" if len(following) > _PAGE else None,
        "start": f"{here}?{urlencode(kept)}" if after >= 0 else None,
    }
    return render(request, "dictionary/page.html", context)
