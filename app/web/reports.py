"""Pages as one file that needs nothing else: no script, and nothing that is fetched."""

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from fastapi.responses import HTMLResponse
from markupsafe import Markup

from app.paths import STATIC
from app.web.rendering import text

_FETCHED_FONT = re.compile(r"@font-face \{[^}]*url\([^}]*\}")
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"


def report(template: str, context: dict[str, Any], sheets: Sequence[str]) -> HTMLResponse:
    """Render a template with the text of its sheets as `styles`, to be read or downloaded."""
    body = text(template, {**context, "styles": _styles(tuple(sheets))})
    return HTMLResponse(body, headers={"Content-Security-Policy": _POLICY, "Cache-Control": "private, no-cache"})


@cache
def _styles(sheets: tuple[str, ...]) -> Markup:
    """Return sheets as one text, without the font, which would be fetched."""
    texts = ((STATIC / "css" / f"{name}.css").read_text(encoding="utf-8") for name in sheets)
    return Markup(_FETCHED_FONT.sub("", "\n".join(texts)))  # noqa: S704 - our own sheets
