"""GET /api/docs: the API's reference, from a vendored RapiDoc, so that it works offline and under our CSP."""

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from app.web.rendering import render

router = APIRouter(include_in_schema=False)


@router.get("/api/docs")
async def docs(request: Request) -> HTMLResponse:
    """Return the reference, with a form to try each call."""
    return render(request, "api/docs.html", {"spec": request.app.openapi_url})
