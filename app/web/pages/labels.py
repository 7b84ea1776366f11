"""Labels: the panel on a feature's page with its form, and the queue of features that nobody has labelled."""

from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Path, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import UserError
from app.queries.decisions import decisions_of_feature
from app.queries.feature_list import UNLABELLED, list_features, next_unlabelled
from app.queries.features import get_feature
from app.queries.label_sets import DEFAULT, ensure_set, list_sets
from app.queries.labels import LabelView, find_label, list_labels
from app.queries.saes import SaeDetail, get_saes, list_saes
from app.queries.sql.pg_safe import MAX_INTEGER
from app.services.labels import discard_label, save_label, undo_label
from app.web.components import example_lines, glossary
from app.web.components.feature_view import heading
from app.web.components.label_panel import LabelFields, LabelForm, label_panel
from app.web.dependencies import Actor, FeatureIndex, Sae, Session, last_sae
from app.web.rendering import render, wants_fragment
from app.web.versions import read_version

router = APIRouter()

LabelId = Annotated[int, Path(ge=1, le=MAX_INTEGER)]


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
    of_set = await ensure_set(session, sae.id)
    own = await find_label(session, of_set.id, index, actor.person_id)
    try:
        label = await save_label(session, sae, index, actor=actor, text=fields.text(own), expected_version=version)
    except UserError as error:
        labels = await list_labels(session, sae.id, index, reader=actor.reader)
        form = LabelForm.refused(actor, fields, error, saved=own)
        panel = await label_panel(session, labels, form, reader=actor.reader)
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


@router.post("/labels/{id}/undo")
async def undo(id: LabelId, session: Session, actor: Actor, version: Annotated[str, Form()]) -> RedirectResponse:
    """Take back the last change of one's own label."""
    label = await undo_label(session, id, actor=actor, expected_version=read_version(version, "label"))
    return await _to_labels(session, label)


@router.post("/labels/{id}/discard")
async def discard(id: LabelId, session: Session, actor: Actor, version: Annotated[str, Form()]) -> RedirectResponse:
    """Take one's own label away; its history stays."""
    label = await discard_label(session, id, actor=actor, expected_version=read_version(version, "label"))
    return await _to_labels(session, label)


async def _to_labels(session: AsyncSession, label: LabelView) -> RedirectResponse:
    sae = (await get_saes(session, [label.sae_id]))[label.sae_id]
    return RedirectResponse(f"/saes/{sae.slug}/features/{label.feature}#labels", status_code=303)


@router.get("/saes/{sae}/features/{index}/labels")
async def labels_now(request: Request, sae: Sae, index: FeatureIndex, session: Session, actor: Actor) -> Response:
    """Show a feature's labels as they are now, with its heading, to a page that learned that something changed."""
    if not wants_fragment(request):
        return RedirectResponse(f"/saes/{sae.slug}/features/{index}#labels", status_code=303)
    detail = await get_feature(session, sae, index, reader=actor.reader)
    labels = detail.labels if detail else await list_labels(session, sae.id, index, reader=actor.reader)
    panel = await label_panel(session, labels, LabelForm.of(actor, labels), reader=actor.reader)
    context = {
        "sae": sae,
        "index": index,
        "labels": panel.labels,
        "decisions": await decisions_of_feature(session, sae.id, index, reader=actor.reader),
        "heading": heading(sae, detail) if detail else None,
    }
    return render(request, "labels/_now.html", context)


@router.get("/label")
async def queue(request: Request, session: Session, sae: str | None = None) -> HTMLResponse:
    """Show the label sets of one SAE, and its features without a label, the highest maximum first."""
    saes = [listed for listed in await list_saes(session) if listed.index]
    chosen = next((listed for listed in saes if listed.slug == sae), None) if sae else last_sae(request, saes)
    context: dict[str, Any] = {"saes": saes, "sae": chosen, "requested": sae, "page": None, "sets": []}
    if chosen:
        context["sets"] = [found for found in await list_sets(session, sae_id=chosen.id) if found.set.name != DEFAULT]
        request.state.sae = chosen.slug
        page = await list_features(session, chosen, replace(UNLABELLED, limit=30))
        context["page"] = page
        context["health"] = glossary.health(chosen)
        context["lines"] = {row.index: example_lines.cut(row.example, row.max) for row in page.rows if row.example}
    return render(request, "labels/page.html", context)
