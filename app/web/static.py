"""Static files: kept for ever under an address that names their content, asked for each time under any other.

Text is compressed once, when it is first asked for: plotly.js would take a tenth of a second each time.
"""

import asyncio
import gzip
import re
from functools import lru_cache
from pathlib import Path

from starlette.datastructures import Headers
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from app.paths import STATIC
from app.web.rendering import static_url

_FOR_EVER = "public, max-age=31536000, immutable"
_ASK_FIRST = "public, no-cache"
_NAMED_BY_CONTENT = re.compile(r"(?P<name>.+)\.[0-9a-f]{12}(?P<suffix>\.\w+)")
_COMPRESSIBLE = {".css", ".js", ".svg", ".json", ".txt"}
_VENDORED = "vendor/"
"""Files of others carry their version in their name, and a test holds each to its hash."""


class VersionedStaticFiles(StaticFiles):
    """`/static/<name>.<hash>.<suffix>`, as `app.web.rendering.static_url` makes it, is the file `<name>.<suffix>`.

    A hash that is not the file's, as a page of another version has it, gets the file as it is, not to be kept.
    """

    async def get_response(self, path: str, scope: Scope) -> Response:
        """The file, compressed if the client takes that, with how long it may be kept."""
        named = _NAMED_BY_CONTENT.fullmatch(path)
        plain = named["name"] + named["suffix"] if named else path
        response = await super().get_response(plain, scope)
        kept = plain.startswith(_VENDORED) or (named is not None and static_url(plain) == f"/static/{path}")
        response.headers["Cache-Control"] = _FOR_EVER if kept else _ASK_FIRST
        if isinstance(response, FileResponse) and Path(plain).suffix in _COMPRESSIBLE and _takes_gzip(scope):
            return await _compressed(response, plain)
        return response


def _takes_gzip(scope: Scope) -> bool:
    headers = Headers(scope=scope)
    return scope["method"] == "GET" and "gzip" in headers.get("Accept-Encoding", "") and "Range" not in headers


async def _compressed(response: FileResponse, path: str) -> Response:
    """The same answer with the file compressed."""
    file = STATIC / path
    kept = {name: response.headers[name] for name in ("Cache-Control", "ETag", "Last-Modified")}
    body = await asyncio.to_thread(_gzipped, file, file.stat().st_mtime_ns)
    headers = {**kept, "Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
    return Response(body, media_type=response.media_type, headers=headers)


@lru_cache(maxsize=128)
def _gzipped(file: Path, changed: int) -> bytes:
    """The file compressed; `changed` is there to compress it again when it is another."""
    return gzip.compress(file.read_bytes(), mtime=0)
