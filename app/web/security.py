"""Protection from other web sites: pure ASGI middleware, one rule per class.

There are no accounts yet, so security depends on the browser's same-origin policy and on the site being bound to
loopback by default. Three ways around that are closed: another page posting to us (`SameSiteMiddleware`), another name
pointed at 127.0.0.1, "DNS rebinding" (`HostMiddleware`), and another page framing or scripting us (the headers).
"""

from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.settings import is_loopback
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
_SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


class SecurityHeadersMiddleware:
    """Add the headers above to every response."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle the request and add the headers to the response."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, send_with_headers)


class HostMiddleware:
    """On loopback, answer only requests to this machine's own names.

    A page of another site can point its own name at 127.0.0.1 and then read us as its own origin; the Host header
    still has that name. Bound to another address, the site is meant to be reached by names we cannot know.
    """

    def __init__(self, app: ASGIApp, bound_to: str) -> None:
        self.app = app
        self.allowed = {*_LOOPBACK_NAMES, bound_to} if is_loopback(bound_to) else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle the request if it is addressed to this machine."""
        if scope["type"] == "http" and not self._is_allowed(Headers(scope=scope)):
            detail = "This site answers only to names of the machine it runs on, such as localhost."
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
    (with every request that is not GET or HEAD). Programs send neither, and no browser lends them its credentials.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle the request if it changes nothing or comes from this site."""
        if scope["type"] == "http" and scope["method"] not in _SAFE_METHODS and _is_foreign(Headers(scope=scope)):
            detail = "This request comes from a page of another site, so nothing was changed."
            await answer(Request(scope), 403, "Refused", detail)(scope, receive, send)
            return
        await self.app(scope, receive, send)


def _is_foreign(headers: Headers) -> bool:
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site not in ("same-origin", "none")  # "same-site" may be another program on another port
    origin = headers.get("origin")
    return origin is not None and origin.partition("://")[2] != headers.get("host")
