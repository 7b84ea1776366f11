"""Files of an SAE's labels: take them, and for admins bring some."""

from typing import Annotated

from fastapi import APIRouter, File, Form, Request, UploadFile
from fastapi.responses import HTMLResponse

from app.errors import Unprocessable, UserError
from app.services import label_files
from app.services.actors import Role
from app.services.label_files import Format, Imported
from app.web.dependencies import Actor, Sae, Session
from app.web.rendering import render

router = APIRouter()


@router.get("/saes/{sae}/labels")
async def files(request: Request, sae: Sae, actor: Actor) -> HTMLResponse:
    """Show the files that can be taken, and the form that brings one."""
    return _page(request, sae, actor)


@router.post("/saes/{sae}/labels")
async def bring(
    request: Request,
    sae: Sae,
    session: Session,
    actor: Actor,
    file: Annotated[UploadFile | None, File()] = None,
    other_weights: Annotated[bool, Form()] = False,
) -> HTMLResponse:
    """Write what a file has and the SAE has not; an error names its line, and nothing is written."""
    try:
        if file is None or not file.filename:
            raise Unprocessable("Choose a file first.")
        format: Format = "csv" if file.filename.lower().endswith(".csv") else "jsonl"
        lines = label_files.read_labels(_text(await file.read()), format)
        async with session.begin_nested():
            done = await label_files.import_labels(session, sae, lines, actor=actor, other_weights=other_weights)
    except UserError as error:
        return _page(request, sae, actor, error=error)
    return _page(request, sae, actor, done=done)


def _text(content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Unprocessable("The file is not text in UTF-8.") from None


def _page(
    request: Request, sae: Sae, actor: Actor, *, done: Imported | None = None, error: UserError | None = None
) -> HTMLResponse:
    context = {"sae": sae, "may_bring": actor.role >= Role.admin, "done": done, "error": error}
    return render(request, "label_files/page.html", context, status=error.status if error else 200)
