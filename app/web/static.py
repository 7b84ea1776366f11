"""Static files: cached for ever under the address that names their content, checked each time under any other."""

from starlette.datastructures import QueryParams
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from app.web.rendering import static_url

_FOR_EVER = "public, max-age=31536000, immutable"
_ASK_FIRST = "public, no-cache"


class VersionedStaticFiles(StaticFiles):
    """`/static/<path>?v=<hash>` as `app.web.rendering.static_url` makes it; a stale hash must not be kept."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """The file, with how long it may be kept."""
        response = await super().get_response(path, scope)
        version = QueryParams(scope["query_string"]).get("v")
        current = version is not None and static_url(path).endswith(f"?v={version}")
        response.headers["Cache-Control"] = _FOR_EVER if current else _ASK_FIRST
        return response
