"""Labels: the panel on a feature's page with its form, and the queue of features that nobody has labelled."""

from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import UserError
from app.queries.feature_list import FeatureFilter, list_features
from app.queries.features import get_feature
from app.queries.labels import LabelText, list_labels
from app.queries.saes import SaeDetail, list_saes
from app.services.actors import Actor
from app.services.labels import LabelConflict, save_label
from app.web.components import glossary, token_text
from app.web.components.feature_view import heading
from app.web.components.label_panel import LabelForm, label_panel
from app.web.dependencies import FeatureIndex, FormActor, Sae, Session, remember_actor
from app.web.rendering import render, wants_fragment

router = APIRouter()


@router.post("/saes/{sae}/features/{index}/labels")
async def save(
    request: Request,
    sae: Sae,
    index: FeatureIndex,
    session: Session,
    actor: FormActor,
    explanation: Annotated[str, Form()] = "",
    categories: Annotated[str, Form()] = "",
    confidence: Annotated[str, Form()] = "",
    version: Annotated[str, Form()] = "",
    version_author: Annotated[str, Form()] = "",
) -> Response:
    """Save one's label. On any error the answer is the form again, with everything that was written."""
    # The version was read for one author: under another name the label is a new one.
    expected = int(version) if version.isdecimal() and len(version) < 10 and version_author == actor.name else None
    text = LabelText(
        explanation=explanation,
        categories=tuple(categories.split(",")),
        confidence=int(confidence) if confidence in {str(value) for value in glossary.CONFIDENCE} else None,
    )
    written = LabelForm(
        author=actor.name,
        version=expected,
        version_author=actor.name,
        explanation=explanation,
        categories=categories,
        confidence=text.confidence,
    )
    try:
        await save_label(session, sae, index, actor=actor, text=text, expected_version=expected)
    except UserError as error:
        return await _again(request, sae, index, session, actor, written, error)
    if wants_fragment(request):
        detail = await get_feature(session, sae, index)
        context = await label_panel(session, sae, index, await list_labels(session, sae.id, index), actor)
        context |= {"saved": True, "heading": heading(sae, detail) if detail else None}
        response: Response = render(request, "labels/_saved.html" if detail else "labels/_panel.html", context)
    else:
        response = RedirectResponse(f"/saes/{sae.slug}/features/{index}#labels", status_code=303)
    remember_actor(response, actor)
    return response


async def _again(
    request: Request,
    sae: SaeDetail,
    index: int,
    session: AsyncSession,
    actor: Actor,
    written: LabelForm,
    error: UserError,
) -> HTMLResponse:
    """The form as it was sent, with what was wrong; after a conflict it is based on the newer version."""
    context = await label_panel(session, sae, index, await list_labels(session, sae.id, index), actor)
    form = replace(written, error=str(error), is_open=True)
    if isinstance(error, LabelConflict):
        theirs = error.current
        form = replace(form, conflict=True, theirs=theirs, version=theirs.version if theirs else None)
    template = "labels/_panel.html" if wants_fragment(request) else "labels/again.html"
    return render(request, template, {**context, "form": form}, status=error.status)


@router.get("/label")
async def queue(request: Request, session: Session, sae: str | None = None) -> HTMLResponse:
    """Features without a label, the most active first, of one SAE."""
    saes = [each for each in await list_saes(session) if each.index]
    chosen = next((each for each in saes if each.slug == sae), saes[0] if saes and not sae else None)
    context: dict[str, Any] = {"saes": saes, "sae": chosen, "wanted": sae, "page": None}
    if chosen:
        page = await list_features(session, chosen, FeatureFilter(sort="max", label="unlabelled", limit=30))
        context["page"] = page
        context["health"] = glossary.health(chosen)
        context["lines"] = {row.index: token_text.line(row.example, row.max) for row in page.rows if row.example}
    return render(request, "labels/page.html", context)
