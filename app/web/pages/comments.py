"""Comments on a feature's page: write, answer, delete."""

from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Form, Path, Request
from fastapi.responses import RedirectResponse, Response

from app.errors import UserError
from app.queries.label_sets import DEFAULT
from app.queries.sql.pg_safe import MAX_INTEGER
from app.services.actors import ensure_person
from app.services.comments import add_comment, delete_comment
from app.web.components.comment_panel import comment_panel
from app.web.dependencies import Actor, FeatureIndex, Sae, Session
from app.web.rendering import render, wants_fragment

router = APIRouter()


@router.get("/saes/{sae}/features/{index}/comments")
async def comments_now(request: Request, sae: Sae, index: FeatureIndex, session: Session, actor: Actor) -> Response:
    """Show a feature's comments as they are now, to a page that learned that something changed."""
    if not wants_fragment(request):
        return RedirectResponse(f"/saes/{sae.slug}/features/{index}#comments", status_code=303)
    panel = await comment_panel(session, sae.id, index, actor)
    return render(request, "comments/_panel.html", {"sae": sae, "index": index, "comments": panel})


@router.post("/saes/{sae}/features/{index}/comments")
async def write(
    request: Request,
    sae: Sae,
    index: FeatureIndex,
    session: Session,
    actor: Actor,
    text: Annotated[str, Form()] = "",
    answers: Annotated[int | None, Form()] = None,
    label_set: Annotated[str, Form()] = DEFAULT,
) -> Response:
    """Write a comment, or an answer to one. On an error the answer is the form with the text that was sent."""
    status = 200
    try:
        await add_comment(session, sae, index, actor=actor, text=text, answers=answers, label_set=label_set)
        actor = replace(actor, person_id=await ensure_person(session, actor))
        panel = await comment_panel(session, sae.id, index, actor)
    except UserError as error:
        panel = await comment_panel(session, sae.id, index, actor, text=text, answers=answers, error=str(error))
        status = error.status
    if not wants_fragment(request) and status == 200:
        return RedirectResponse(f"/saes/{sae.slug}/features/{index}#comments", status_code=303)
    template = "comments/_panel.html" if wants_fragment(request) else "comments/again.html"
    return render(request, template, {"sae": sae, "index": index, "comments": panel}, status=status)


@router.post("/saes/{sae}/features/{index}/comments/{id}/delete")
async def delete(
    request: Request,
    sae: Sae,
    index: FeatureIndex,
    id: Annotated[int, Path(ge=1, le=MAX_INTEGER)],
    session: Session,
    actor: Actor,
) -> Response:
    """Delete a comment of one's own."""
    await delete_comment(session, id, actor=actor)
    if not wants_fragment(request):
        return RedirectResponse(f"/saes/{sae.slug}/features/{index}#comments", status_code=303)
    panel = await comment_panel(session, sae.id, index, actor)
    return render(request, "comments/_panel.html", {"sae": sae, "index": index, "comments": panel})
