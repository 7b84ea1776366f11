"""The models and corpora that there are, with what uses them."""

import asyncio
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from app.artifacts import Artifacts
from app.services.inventory import stored_corpora, stored_models
from app.web.dependencies import AppSettings, Session
from app.web.rendering import render

router = APIRouter()


@router.get("/models")
async def models(request: Request, session: Session, settings: AppSettings) -> HTMLResponse:
    """Show all models and corpora."""
    artifacts = Artifacts.of(settings)
    found = await stored_models(session, artifacts)
    sizes = await asyncio.to_thread(lambda: [artifacts.bytes_of(stored.folders) for stored in found])
    context = {
        "models": [
            (stored, size, f"/models/{quote(stored.name)}/delete") for stored, size in zip(found, sizes, strict=True)
        ],
        "corpora": [(stored, f"/corpora/{quote(stored.name)}/delete") for stored in await stored_corpora(session)],
    }
    return render(request, "models/page.html", context)
