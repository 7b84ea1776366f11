"""Protection from other web sites: pure ASGI middleware, one rule per class.

Another page must not post to us with a person's cookie (`SameSiteMiddleware`), no other name may be pointed at this
machine, "DNS rebinding" (`HostMiddleware`), and no other page may frame or script us (the headers).
"""

from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.settings import is_loopback
from app.web.dependencies import bearer_token
from app.web.errors import answer

_POLICY = (
    "default-src 'self'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors "
)
EMBEDDABLE = f"{_POLICY}*"
"""Policy of a page that other sites may frame: one without forms, on which no click can be stolen."""
_HEADERS = {
    "Content-Security-Policy": f"{_POLICY}'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_HTTPS_HEADERS = {"Strict-Transport-Security": "max-age=31536000"}
_SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


class SecurityHeadersMiddleware:
    """Add the headers above to every response; on https, browsers are told to use nothing else from then on."""

    def __init__(self, app: ASGIApp, *, https: bool) -> None:
        self.app = app
        self.headers = {**_HEADERS, **(_HTTPS_HEADERS if https else {})}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle the request and add the headers to the response."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self.headers.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, send_with_headers)


class HostMiddleware:
    """Answer only requests to the site's own name and, on loopback, to this machine's names.

    A page of another site can point its own name at 127.0.0.1 and then read us as its own origin; the Host header
    still has that name. Bound to another address, a site is meant to be reached by names that only `base_url` tells.
    """

    def __init__(self, app: ASGIApp, bound_to: str, base_url: str | None) -> None:
        self.app = app
        self.allowed = {*_LOOPBACK_NAMES, bound_to} if base_url or is_loopback(bound_to) else None
        if self.allowed and base_url:
            self.allowed.add(urlsplit(base_url).hostname or "")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle the request if it is addressed to this machine."""
        if scope["type"] == "http" and not self._is_allowed(Headers(scope=scope)):
            detail = (
                "This site answers only to its own name, and to names of the machine it runs on, such as localhost. "
                "Behind a proxy, SEESAE_BASE_URL says its name."
            )
            await answer(Request(scope), 400, "Unknown host name", detail)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _is_allowed(self, headers: Headers) -> bool:
        return self.allowed is None or _hostname(headers.get("host", "")) in self.allowed


def _hostname(host: str) -> str | None:
    """Return the name in a Host header, without its port."""
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


class SameSiteMiddleware:
    """Refuse a request that changes something and comes from a page of another site.

    Browsers say where a request comes from in `Sec-Fetch-Site` (only over https and on localhost) or in `Origin`
    (with every request that is not GET or HEAD). Programs send neither. A request with a token is let through: browsers
    send none by themselves, and beside it a cookie does not count.
    """

    def __init__(self, app: ASGIApp, base_url: str | None) -> None:
        self.app = app
        self.own = urlsplit(base_url).netloc if base_url else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle the request if it changes nothing or comes from this site."""
        if scope["type"] == "http" and scope["method"] not in _SAFE_METHODS and self._is_foreign(Headers(scope=scope)):
            detail = "This request comes from a page of another site, so nothing was changed."
            await answer(Request(scope), 403, "Refused", detail)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _is_foreign(self, headers: Headers) -> bool:
        if bearer_token(headers) is not None:
            return False
        site = headers.get("sec-fetch-site")
        if site is not None:
            return site not in ("same-origin", "none")  # "same-site" may be another program on another port
        origin = headers.get("origin")
        return origin is not None and origin.partition("://")[2] not in (headers.get("host"), self.own)
