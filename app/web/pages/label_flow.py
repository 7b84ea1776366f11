"""The flow of labelling a set: one feature after another, by keys or by buttons, with JavaScript or without.

Pages only read. What leases or writes is a POST, which answers a script with a part of the page. The script has the
next feature leased and loaded while a person still looks at this one.
"""

from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Form, Path, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import NotFound, UserError
from app.queries import label_flow as queries
from app.queries.examples import get_examples
from app.queries.features import get_feature
from app.queries.label_sets import LabelSetView, current_guideline
from app.queries.labels import find_label, list_labels
from app.queries.saes import SaeDetail
from app.queries.sql.pg_safe import MAX_INTEGER
from app.services import label_flow as service
from app.services.actors import Actor as Person
from app.services.actors import ensure_person
from app.services.label_sets import find_label_set
from app.services.labels import save_label
from app.web.components.example_lines import Example
from app.web.components.feature_view import SiteLinks, feature_view
from app.web.components.label_panel import LabelFields, LabelForm, ShownLabel
from app.web.dependencies import Actor, Session
from app.web.rendering import render, wants_fragment

router = APIRouter()

SetId = Annotated[int, Path(ge=1, le=MAX_INTEGER)]
Number = Annotated[int, Form(ge=0, le=MAX_INTEGER)]


@router.get("/labelsets/{id}/label")
async def flow(
    request: Request,
    id: SetId,
    session: Session,
    actor: Actor,
    feature: Annotated[int | None, Query(ge=0, le=MAX_INTEGER)] = None,
    undone: bool = False,
) -> HTMLResponse:
    """Show a feature with the form: the one of the address, else the one that the person has before them."""
    summary, sae = await find_label_set(session, id)
    request.state.sae = sae.slug
    if feature is None:
        feature = await queries.held_feature(session, summary.set, actor.person_id)
    context = await _context(session, sae, summary.set, actor, feature)
    return render(request, "label_sets/flow.html", {**context, "undone": undone})


@router.post("/labelsets/{id}/next")
async def next_feature(
    request: Request,
    id: SetId,
    session: Session,
    actor: Actor,
    besides: Annotated[list[int], Form()] = [],  # noqa: B006
) -> Response:
    """Lease the next feature; for a script, `besides` what is on the screen, the part of the page that shows it."""
    summary, sae = await find_label_set(session, id)
    actor = await _known(session, actor)
    shown = [number for number in besides if 0 <= number <= MAX_INTEGER]
    return await _next(request, session, sae, summary.set, actor, shown)


@router.post("/labelsets/{id}/label")
async def save(
    request: Request,
    id: SetId,
    session: Session,
    actor: Actor,
    feature: Number,
    fields: Annotated[LabelFields, Depends()],
) -> Response:
    """Save the label and go to the next feature; for a script only save. On an error the answer is the form as sent."""
    summary, sae = await find_label_set(session, id)
    actor = await _known(session, actor)
    own = await find_label(session, id, feature, actor.person_id)
    try:
        await save_label(
            session,
            sae,
            feature,
            actor=actor,
            text=fields.text(own),
            expected_version=fields.version_read,
            label_set=summary.set.name,
        )
    except NotFound:
        raise
    except UserError as error:
        context = await _context(session, sae, summary.set, actor, feature)
        choices = context["form"].choices
        context["form"] = LabelForm.refused(actor, fields, error, saved=own, choices=choices)
        template = "label_sets/_form.html" if wants_fragment(request) else "label_sets/flow.html"
        return render(request, template, {**context, "undone": False}, status=error.status)
    return await _onwards(request, session, sae, summary.set, actor)


@router.post("/labelsets/{id}/skip")
async def skip(request: Request, id: SetId, session: Session, actor: Actor, feature: Number) -> Response:
    """Pass a feature over and go to the next; for a script only pass it over."""
    summary, sae = await find_label_set(session, id)
    actor = await _known(session, actor)
    await service.skip(session, summary.set, feature, actor)
    return await _onwards(request, session, sae, summary.set, actor)


@router.post("/labelsets/{id}/undo")
async def undo(request: Request, id: SetId, session: Session, actor: Actor) -> Response:
    """Take back what the person did last, and show that feature again."""
    summary, sae = await find_label_set(session, id)
    actor = await _known(session, actor)
    undone = await service.take_back(session, summary.set, actor)
    if not wants_fragment(request):
        which = f"?feature={undone.feature}&undone=1" if undone else ""
        return RedirectResponse(f"/labelsets/{id}/label{which}", status_code=303)
    if undone is None:
        return Response(status_code=204)
    context = await _context(session, sae, summary.set, actor, undone.feature)
    return render(request, "label_sets/_flow.html", {**context, "undone": True})


async def _known(session: AsyncSession, actor: Person) -> Person:
    """Return the actor as a person with an id, who may be new to the site."""
    return replace(actor, person_id=await ensure_person(session, actor))


async def _onwards(
    request: Request, session: AsyncSession, sae: SaeDetail, of: LabelSetView, actor: Person
) -> Response:
    """Go to the next feature; a script has it already, and gets how far its person is."""
    if not wants_fragment(request):
        return await _next(request, session, sae, of, actor, [])
    progress = await queries.flow_progress(session, of, actor.person_id)
    return render(request, "label_sets/_progress.html", {"set": of, "progress": progress})


async def _next(
    request: Request, session: AsyncSession, sae: SaeDetail, of: LabelSetView, actor: Person, besides: list[int]
) -> Response:
    lease = await service.next_feature(session, sae, of, actor, besides=besides)
    if not wants_fragment(request):
        which = f"?feature={lease.feature}" if lease else ""
        return RedirectResponse(f"/labelsets/{of.id}/label{which}", status_code=303)
    context = await _context(session, sae, of, actor, lease.feature if lease else None)
    return render(request, "label_sets/_flow.html", {**context, "undone": False})


async def _context(
    session: AsyncSession, sae: SaeDetail, of: LabelSetView, actor: Person, feature: int | None
) -> dict[str, Any]:
    """Return what the flow shows: a feature with its evidence and the form, or None where there is nothing to do."""
    guideline = await current_guideline(session, of.id)
    context: dict[str, Any] = {
        "set": of,
        "sae": sae,
        "guideline": guideline,
        "feature": feature,
        "progress": await queries.flow_progress(session, of, actor.person_id),
    }
    if feature is None:
        return {**context, "held": await queries.held_by_others(session, of, actor.person_id)}
    detail = await get_feature(session, sae, feature)
    if detail is None:
        raise NotFound(f"{sae.slug} has no feature {feature}, or no index.")
    views = await get_examples(session, sae, feature, with_documents=False)
    examples = [Example.of(view, detail.max) for view in views]
    mine = await find_label(session, of.id, feature, actor.person_id)
    draft = await queries.get_draft(session, of.id, feature, actor.person_id)
    lease = await queries.current_lease(session, of, feature)
    labels = await list_labels(session, sae.id, feature, reader=actor.reader)
    return {
        **context,
        "detail": detail,
        "view": feature_view(sae, detail, examples, links=SiteLinks(sae, feature)),
        "form": LabelForm.of_label(actor, mine, choices=guideline.categories if guideline else (), draft=draft),
        "is_others": lease is not None and not actor.owns(lease[0]),
        "others": [
            ShownLabel(label) for label in labels if label.label_set_id == of.id and not actor.owns(label.person_id)
        ],
    }
