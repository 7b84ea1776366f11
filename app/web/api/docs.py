"""GET /api/docs: the API's reference, from a vendored RapiDoc, so that it works offline and under our CSP."""

from html import escape

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from app.web.rendering import static_url

router = APIRouter(include_in_schema=False)

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>API · SeeSAE</title>
<link rel="icon" href="{icon}" type="image/svg+xml">
<script type="module" src="{rapidoc}"></script>
</head>
<body>
<rapi-doc spec-url="{spec}" render-style="view" show-header="false" load-fonts="false" regular-font="system-ui"
  mono-font="ui-monospace, monospace" primary-color="#c2560c" schema-style="table" sort-tags="false"
  allow-authentication="false" allow-server-selection="false" allow-spec-url-load="false" allow-spec-file-load="false">
<p slot="footer"><a href="/">SeeSAE</a></p>
</rapi-doc>
<noscript>This page needs JavaScript; the same description is at <a href="{spec}">{spec}</a>.</noscript>
</body>
</html>
"""


@router.get("/api/docs")
async def docs(request: Request) -> HTMLResponse:
    """The reference, with a form to try each call."""
    page = _PAGE.format(
        icon=escape(static_url("icon.svg")),
        rapidoc=escape(static_url("vendor/rapidoc-9.3.8.min.js")),
        spec=escape(str(request.app.openapi_url)),
    )
    return HTMLResponse(page)
