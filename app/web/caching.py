"""ETags of pages: a client that has the page gets a 304, where possible before the page is rendered.

The tags are weak, because the same page may come compressed or not. Caches keep pages, but revalidate before use.
"""

import hashlib
from functools import cache
from importlib.metadata import version
from pathlib import Path

from fastapi import Request
from fastapi.responses import Response

import app
from app.paths import STATIC, TEMPLATES
from app.queries.saes import SaeDetail
from app.web.dependencies import remember_sae

PAGE_HEADERS = {"Vary": "HX-Request, Cookie", "Cache-Control": "private, no-cache"}
"""`Vary` keeps caches from answering a request for a fragment with the whole page, or with another person's."""


class NotModified(Exception):
    """The client already has the current version of the requested page."""

    def __init__(self, etag: str) -> None:
        super().__init__(etag)
        self.etag = etag


def make_etag(*parts: object) -> str:
    """Return an ETag of everything that an answer is made of; different parts give different tags."""
    return f'W/"{hashlib.sha256(repr((build_hash(), *parts)).encode()).hexdigest()[:32]}"'


def features_etag(request: Request, sae: SaeDetail, *parts: object) -> str:
    """Return the ETag of a page about features: it changes with the reader, the SAE's index and any of its labels."""
    index = sae.index.id if sae.index else None
    htmx = request.headers.get("HX-Request"), request.headers.get("HX-History-Restore-Request")
    return make_etag(str(request.url), htmx, request.state.actor, sae.id, index, sae.label_changes, *parts)


def raise_if_not_modified(request: Request, etag: str) -> None:
    """Raise if the client already has the page.

    Raises:
        NotModified: `If-None-Match` names `etag`.
    """
    if client_has(request, etag):
        raise NotModified(etag)


def client_has(request: Request, etag: str) -> bool:
    """True if `If-None-Match` names `etag`."""
    known = request.headers.get("If-None-Match", "")
    return request.method in ("GET", "HEAD") and etag in (name.strip() for name in known.split(","))


async def answer_not_modified(request: Request, error: Exception) -> Response:
    """Answer `NotModified` with a 304 and the headers that the page would have."""
    assert isinstance(error, NotModified)
    response = Response(status_code=304, headers={**PAGE_HEADERS, "ETag": error.etag})
    remember_sae(request, response)
    return response


@cache
def build_hash() -> str:
    """Hash of the version and the code that render pages: in development the code changes without the version."""
    digest = hashlib.sha256(version("seesae").encode())
    code = Path(app.__file__).parent
    declared = code.with_name("sae_core") / "statistics"  # whose thresholds and words pages show
    for folder, pattern in ((TEMPLATES, "*.html"), (STATIC, "*.*s"), (code, "*.py"), (declared, "spec.py")):
        for path in sorted(folder.rglob(pattern)):
            digest.update(path.read_bytes())
    return digest.hexdigest()
