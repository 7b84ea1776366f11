"""The pages that ask before an SAE, its index, a model or a corpus is deleted."""

import asyncio
from dataclasses import dataclass
from shlex import quote as quote_word
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse
from rich.filesize import decimal
from sqlalchemy.ext.asyncio import AsyncSession

from app.artifacts import Artifacts
from app.errors import Conflict
from app.services import deletion as deletions
from app.services.deletion import Deletion, InUse, Kind
from app.settings import Settings
from app.web.dependencies import AppSettings, Session, Submitter, may_submit
from app.web.rendering import render

router = APIRouter()

_ADDRESSES: dict[Kind, str] = {
    "sae": "/saes/{}/delete",
    "index": "/saes/{}/index/delete",
    "model": "/models/{}/delete",
    "corpus": "/corpora/{}/delete",
}
Version = Annotated[int, Form()]


@dataclass(frozen=True, slots=True)
class _Freed:
    """Something that nothing else uses, and the page that asks before it is deleted."""

    kind: Kind
    name: str
    address: str


def address(kind: Kind, name: str) -> str:
    """Return the address of the page that asks."""
    return _ADDRESSES[kind].format(quote(name))


@router.get("/saes/{sae}/delete")
async def ask_sae(request: Request, sae: str, session: Session, settings: AppSettings) -> HTMLResponse:
    """Ask before an SAE is deleted."""
    return await _ask(request, session, settings, "sae", sae)


@router.post("/saes/{sae}/delete")
async def delete_sae(
    request: Request, sae: str, session: Session, settings: AppSettings, _actor: Submitter, version: Version
) -> HTMLResponse:
    """Delete an SAE, unless labels were written since the page asked."""
    return await _delete(request, session, settings, "sae", sae, version)


@router.get("/saes/{sae}/index/delete")
async def ask_index(request: Request, sae: str, session: Session, settings: AppSettings) -> HTMLResponse:
    """Ask before an index is deleted."""
    return await _ask(request, session, settings, "index", sae)


@router.post("/saes/{sae}/index/delete")
async def delete_index(
    request: Request, sae: str, session: Session, settings: AppSettings, _actor: Submitter
) -> HTMLResponse:
    """Delete the index of an SAE."""
    return await _delete(request, session, settings, "index", sae)


@router.get("/models/{name:path}/delete")
async def ask_model(request: Request, name: str, session: Session, settings: AppSettings) -> HTMLResponse:
    """Ask before a model is deleted."""
    return await _ask(request, session, settings, "model", name)


@router.post("/models/{name:path}/delete")
async def delete_model(
    request: Request, name: str, session: Session, settings: AppSettings, _actor: Submitter
) -> HTMLResponse:
    """Delete a model."""
    return await _delete(request, session, settings, "model", name)


@router.get("/corpora/{name:path}/delete")
async def ask_corpus(request: Request, name: str, session: Session, settings: AppSettings) -> HTMLResponse:
    """Ask before a corpus is deleted."""
    return await _ask(request, session, settings, "corpus", name)


@router.post("/corpora/{name:path}/delete")
async def delete_corpus(
    request: Request, name: str, session: Session, settings: AppSettings, _actor: Submitter
) -> HTMLResponse:
    """Delete a corpus."""
    return await _delete(request, session, settings, "corpus", name)


async def _ask(
    request: Request, session: AsyncSession, settings: Settings, kind: Kind, name: str, *, refused: str = ""
) -> HTMLResponse:
    artifacts = Artifacts.of(settings)
    found = await deletions.describe(session, kind, name, artifacts)
    context = {
        "deletion": found,
        "address": address(kind, name),
        **await _size(found, artifacts),
        "thing": "the SAE" if kind == "sae" else f"the {kind}",
        "command": f"seesae delete {kind} {quote_word(found.name)}",
        "back": f"/saes/{quote(found.name)}" if kind in ("sae", "index") else "/models",
        "allowed": may_submit(request),
        "error": refused,
    }
    return render(request, "deletions/ask.html", context, status=Conflict.status if refused else 200)


async def _delete(
    request: Request, session: AsyncSession, settings: Settings, kind: Kind, name: str, version: int | None = None
) -> HTMLResponse:
    """Delete something and say so. If labels were written meanwhile, ask again."""
    artifacts = Artifacts.of(settings)
    try:
        gone = await deletions.delete(session, kind, name, artifacts, label_changes=version)
    except InUse:
        raise
    except Conflict as error:
        return await _ask(request, session, settings, kind, name, refused=str(error))
    context = {
        "deletion": gone,
        **await _size(gone, artifacts),
        "freed": [_Freed(other, of, address(other, of)) for other, of in gone.freed],
        "back": {"sae": "/", "index": f"/saes/{quote(gone.name)}"}.get(kind, "/models"),
    }
    return render(request, "deletions/done.html", context)


async def _size(deletion: Deletion, artifacts: Artifacts) -> dict[str, Any]:
    """Return the room on disk that it takes; `elsewhere` is true where this machine does not have the files."""
    files = await asyncio.to_thread(artifacts.bytes_of, deletion.folders)
    size = (files or 0) + deletion.table_bytes
    return {"size": decimal(size), "any_size": size > 0, "elsewhere": files is None}
