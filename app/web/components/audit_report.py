"""An audit as one file that needs nothing else: no script, and nothing that is fetched."""

import re

from fastapi.responses import HTMLResponse
from markupsafe import Markup

from app.paths import STATIC
from app.web.components.audit_view import AuditPage
from app.web.rendering import text

_SHEETS = ("tokens", "base", "parts", "strips", "lists", "audits")
_FONT = re.compile(r"@font-face \{[^}]*url\([^}]*\}")
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"


def report_response(page: AuditPage) -> HTMLResponse:
    """Return the report, to be read or downloaded."""
    body = text("audits/report.html", {"page": page, "linked": False, "styles": _styles()})
    return HTMLResponse(body, headers={"Content-Security-Policy": POLICY, "Cache-Control": "private, no-cache"})


def _styles() -> Markup:
    """Return all sheets without the font, which would be fetched."""
    sheets = ((STATIC / "css" / f"{name}.css").read_text(encoding="utf-8") for name in _SHEETS)
    return Markup(_FONT.sub("", "\n".join(sheets)))  # noqa: S704 - our own sheets
