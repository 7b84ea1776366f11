"""The activity feed: what people did, the newest first, and before it where the reader is mentioned."""

from functools import partial
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse

from app.errors import NotFound
from app.queries.activity import list_activity
from app.queries.label_sets import get_set
from app.queries.saes import list_saes
from app.queries.sql.pg_safe import MAX_INTEGER
from app.services.monitors import find_monitor
from app.services.saes import find_sae
from app.web.components.glossary import ACTS
from app.web.dependencies import Actor, Session
from app.web.rendering import render

router = APIRouter()

_PAGE = 50
_MENTIONS = 10

Before = Annotated[int | None, Query(ge=1, le=2**63 - 1)]


@router.get("/activity")
async def activity_page(
    request: Request,
    session: Session,
    actor: Actor,
    sae: Annotated[str, Query(max_length=200)] = "",
    set: Annotated[int | None, Query(ge=1, le=MAX_INTEGER)] = None,
    monitor: Annotated[str, Query(max_length=200)] = "",
    before: Before = None,
) -> HTMLResponse:
    """Show what people did, on all SAEs, on one, in one label set, or with one monitor."""
    of = await find_sae(session, sae) if sae else None
    label_set = await get_set(session, set) if set else None
    if set and label_set is None:
        raise NotFound(f"There is no label set {set}.")
    watching = await find_monitor(session, monitor) if monitor else None
    acts = partial(
        list_activity,
        session,
        reader=actor.reader,
        sae_id=of.id if of else None,
        label_set_id=set,
        monitor_id=watching.id if watching else None,
    )
    found = await acts(before=before, limit=_PAGE + 1)
    mentions = []
    if before is None and actor.person_id is not None:
        mentions = await acts(mentions=True, limit=_MENTIONS)
    shown = found[:_PAGE]
    more = _address(sae=sae, set=set, monitor=monitor, before=shown[-1].id) if len(found) > _PAGE else None
    context = {
        "acts": shown,
        "mentions": mentions,
        "words": ACTS,
        "saes": await list_saes(session),
        "sae_chosen": sae,
        "label_set": label_set,
        "monitor": watching.name if watching else "",
        "more": more,
        "newest": _address(sae=sae, set=set, monitor=monitor) if before else None,
    }
    return render(request, "activity/page.html", context)


def _address(**parameters: str | int | None) -> str:
    query = urlencode({name: value for name, value in parameters.items() if value})
    return f"/activity?{query}" if query else "/activity"
