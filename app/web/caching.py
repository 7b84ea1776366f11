"""ETags of pages: who has a page already is told that it is unchanged, at best before the page is made again.

The tags are weak, for the same page may come compressed or not. Caches keep pages, but ask before they show one.
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

PAGE_HEADERS = {"Vary": "HX-Request", "Cache-Control": "no-cache"}
"""`Vary` keeps caches from giving a page to who asked for a fragment of it, and the other way round."""


class NotModified(Exception):
    """The client's copy of what it asked for is as good as a new one."""

    def __init__(self, etag: str) -> None:
        super().__init__(etag)
        self.etag = etag


def tag(*parts: object) -> str:
    """An ETag of everything that an answer is made of; no two lists of parts have the same."""
    return f'W/"{hashlib.sha256(repr((build(), *parts)).encode()).hexdigest()[:32]}"'


def features_tag(request: Request, sae: SaeDetail, *parts: object) -> str:
    """The ETag of a page about features: it changes with the SAE's index and with any of its labels."""
    index = sae.index.id if sae.index else None
    htmx = request.headers.get("HX-Request"), request.headers.get("HX-History-Restore-Request")
    return tag(str(request.url), htmx, sae.id, index, sae.label_changes, *parts)


def raise_if_not_modified(request: Request, etag: str) -> None:
    """Go on only if the client does not have what it asks for.

    Raises:
        NotModified: it has.
    """
    if is_known(request, etag):
        raise NotModified(etag)


def is_known(request: Request, etag: str) -> bool:
    """Whether the client says that it has what `etag` names."""
    known = request.headers.get("If-None-Match", "")
    return request.method in ("GET", "HEAD") and etag in (each.strip() for each in known.split(","))


async def answer_not_modified(request: Request, error: Exception) -> Response:
    """The exception's handler: 304, with the headers that the page would have."""
    assert isinstance(error, NotModified)
    return Response(status_code=304, headers={**PAGE_HEADERS, "ETag": error.etag})


@cache
def build() -> str:
    """What the site's pages are made by: the version, and the code itself, which may change without it."""
    digest = hashlib.sha256(version("seesae").encode())
    for folder, pattern in ((TEMPLATES, "*.html"), (STATIC, "*.*s"), (Path(app.__file__).parent, "*.py")):
        for path in sorted(folder.rglob(pattern)):
            digest.update(path.read_bytes())
    return digest.hexdigest()
