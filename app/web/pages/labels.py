"""Labels: the panel on a feature's page with its form, and the queue of features that nobody has labelled."""

from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import UserError
from app.queries.feature_list import UNLABELLED, list_features, next_unlabelled
from app.queries.features import get_feature
from app.queries.label_sets import ensure_set
from app.queries.labels import find_label, list_labels
from app.queries.saes import SaeDetail, list_saes
from app.services.labels import save_label
from app.web.components import glossary, token_text
from app.web.components.feature_view import heading
from app.web.components.label_panel import LabelFields, LabelForm, label_panel
from app.web.dependencies import Actor, FeatureIndex, Sae, Session, last_sae
from app.web.rendering import render, wants_fragment

router = APIRouter()


@router.post("/saes/{sae}/features/{index}/labels")
async def save(
    request: Request,
    sae: Sae,
    index: FeatureIndex,
    session: Session,
    actor: Actor,
    fields: Annotated[LabelFields, Depends()],
) -> Response:
    """Save the actor's label. On an error the answer is the form with the text that was sent."""
    version = fields.version_read
    try:
        of_set = await ensure_set(session, sae.id)
        text = fields.text(await find_label(session, of_set.id, index, actor.person_id))
        label = await save_label(session, sae, index, actor=actor, text=text, expected_version=version)
    except UserError as error:
        labels = await list_labels(session, sae.id, index, reader=actor.reader)
        panel = await label_panel(session, labels, LabelForm.refused(actor, fields, error), reader=actor.reader)
        template = "labels/_panel.html" if wants_fragment(request) else "labels/again.html"
        return render(request, template, {"sae": sae, "index": index, "panel": panel}, status=error.status)
    if wants_fragment(request):
        response: Response = await _saved(request, sae, index, session, replace(actor, person_id=label.person_id))
    else:
        response = RedirectResponse(f"/saes/{sae.slug}/features/{index}?saved=1#labels", status_code=303)
    return response


async def _saved(request: Request, sae: SaeDetail, index: int, session: AsyncSession, actor: Actor) -> HTMLResponse:
    """Return the panel after a label was saved, with the heading of a feature that has one."""
    detail = await get_feature(session, sae, index, reader=actor.reader)
    labels = detail.labels if detail else await list_labels(session, sae.id, index, reader=actor.reader)
    following = await next_unlabelled(session, sae, detail) if detail else None
    panel = await label_panel(
        session, labels, LabelForm.of(actor, labels), reader=actor.reader, saved=True, next=following
    )
    context = {"sae": sae, "index": index, "panel": panel}
    if detail is None:
        return render(request, "labels/_panel.html", context)
    return render(request, "labels/_saved.html", {**context, "heading": heading(sae, detail)})


@router.get("/label")
async def queue(request: Request, session: Session, sae: str | None = None) -> HTMLResponse:
    """Show the features of one SAE without a label, the highest maximum first."""
    saes = [listed for listed in await list_saes(session) if listed.index]
    chosen = next((listed for listed in saes if listed.slug == sae), None) if sae else last_sae(request, saes)
    context: dict[str, Any] = {"saes": saes, "sae": chosen, "requested": sae, "page": None}
    if chosen:
        request.state.sae = chosen.slug
        page = await list_features(session, chosen, replace(UNLABELLED, limit=30))
        context["page"] = page
        context["health"] = glossary.health(chosen)
        context["lines"] = {row.index: token_text.line(row.example, row.max) for row in page.rows if row.example}
    return render(request, "labels/page.html", context)
