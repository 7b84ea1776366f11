"""Static files: cached for ever under an address that contains a hash of their content, revalidated under any other.

Modules import each other by address, so the server writes hashes into their imports (`./lib/format.js` becomes
`./lib/format.<hash>.js`) and hashes a module as it is served. Its own address then changes with everything it imports,
directly or not. An import map would do this too, but it is inline: it would be part of every page, and the content
security policy would need its hash. Unhashed addresses would cost a request per module and page.

Text is compressed once, when it is first requested: plotly.js would take 0.1 s per request.
"""

import asyncio
import gzip
import hashlib
import posixpath
import re
from collections.abc import Iterator
from functools import cache, lru_cache
from pathlib import Path

from starlette.datastructures import Headers
from starlette.responses import FileResponse, Response
from starlette.staticfiles import NotModifiedResponse, StaticFiles
from starlette.types import Scope

from app.paths import STATIC

_FOR_EVER = "public, max-age=31536000, immutable"
_REVALIDATE = "public, no-cache"
_NAMED_BY_CONTENT = re.compile(r"(?P<name>.+)\.[0-9a-f]{12}(?P<suffix>\.\w+)")
_POLICY = "default-src 'none'"
_PARTS_OF_PAGES = ("css/", "js/")
"""Sheets and scripts. Their page's policy applies to them, so their own is the strictest and shortest."""
_COMPRESSIBLE = {".css", ".js", ".svg", ".json", ".txt"}
_KEPT_HEADERS = ("Cache-Control", "Content-Security-Policy", "ETag")
_SCRIPTS = "js/"
_VENDORED = "vendor/"
"""Third-party files have their version in their name, and a test checks each hash."""
_IMPORT = re.compile(r'\b(?P<keyword>from|import) "(?P<address>\.{1,2}/[^"]+\.js)"')


@cache
def static_url(path: str) -> str:
    """Return `/static/<name>.<hash>.<suffix>`: the address changes with the content, so it may be cached for ever."""
    digest = hashlib.sha256(content(path)).hexdigest()
    name, _, suffix = path.rpartition(".")
    return f"/static/{name}.{digest[:12]}.{suffix}"


def content(path: str) -> bytes:
    """Return a static file as it is served: the imports of a script carry hashes."""
    data = (STATIC / path).read_bytes()
    if not path.startswith(_SCRIPTS):
        return data

    def with_hash(found: re.Match[str]) -> str:
        folder = found["address"].rpartition("/")[0]
        name = static_url(_imported(path, found)).rpartition("/")[2]
        return f'{found["keyword"]} "{folder}/{name}"'

    return _IMPORT.sub(with_hash, data.decode()).encode()


def imports(path: str) -> list[str]:
    """Return the modules that a module imports, directly or not, each once and after its own imports."""

    def visit(module: str) -> Iterator[str]:
        for found in _IMPORT.finditer((STATIC / module).read_text()):
            imported = _imported(module, found)
            yield from visit(imported)
            yield imported

    return list(dict.fromkeys(visit(path)))


def classic_script(path: str) -> str:
    """Return a module with its imports as one classic script, for pages that a browser opens from a disk."""
    sources = [(STATIC / module).read_text() for module in (*imports(path), path)]
    bodies = [re.sub(r"^(?:import .*\n|export )", "", source, flags=re.MULTILINE) for source in sources]
    return "\n".join(['(() => {\n"use strict";', *bodies, "})();\n"])


def _imported(module: str, found: re.Match[str]) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(module), found["address"]))


class VersionedStaticFiles(StaticFiles):
    """Serve the file `<name>.<suffix>` as `/static/<name>.<hash>.<suffix>`, the address that `static_url` gives it.

    Another hash, as in a page of another version, gives the current file, to be revalidated.
    """

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return the file, compressed if the client accepts that, with how long it may be cached."""
        named = _NAMED_BY_CONTENT.fullmatch(path)
        plain = named["name"] + named["suffix"] if named else path
        response = await super().get_response(plain, scope)
        if isinstance(response, FileResponse) and plain.startswith(_SCRIPTS):
            response = await self._script(plain, response.media_type, scope)
        kept = plain.startswith(_VENDORED) or (named is not None and static_url(plain) == f"/static/{path}")
        response.headers["Cache-Control"] = _FOR_EVER if kept else _REVALIDATE
        if plain.startswith(_PARTS_OF_PAGES):
            response.headers["Content-Security-Policy"] = _POLICY
        if response.status_code == 200 and Path(plain).suffix in _COMPRESSIBLE and _accepts_gzip(scope):
            return await _compressed(response, plain)
        return response

    async def _script(self, path: str, media_type: str | None, scope: Scope) -> Response:
        """Return a script with an ETag of the served content: its file does not change when an import does."""
        body = await asyncio.to_thread(content, path)
        headers = {"ETag": f'"{hashlib.sha256(body).hexdigest()[:32]}"'}
        response = Response(body, media_type=media_type, headers=headers)
        if self.is_not_modified(response.headers, Headers(scope=scope)):
            return NotModifiedResponse(response.headers)
        return response


def _accepts_gzip(scope: Scope) -> bool:
    headers = Headers(scope=scope)
    return scope["method"] == "GET" and "gzip" in headers.get("Accept-Encoding", "") and "Range" not in headers


async def _compressed(response: Response, path: str) -> Response:
    """Return the same response with the content compressed."""
    kept = {name: response.headers[name] for name in _KEPT_HEADERS if name in response.headers}
    body = await asyncio.to_thread(_gzipped, path, response.headers["ETag"])
    headers = {**kept, "Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
    return Response(body, media_type=response.media_type, headers=headers)


@lru_cache(maxsize=128)
def _gzipped(path: str, etag: str) -> bytes:
    """Return the content compressed; with `etag`, a changed file is another entry of the cache."""
    return gzip.compress(content(path), mtime=0)
