"""One log line, two metrics and a `Server-Timing` header per request.

A line names the route, never the raw address: a query string may contain a person's text.
"""

import time

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = structlog.get_logger("web")

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_QUIET = {"/healthz", "/readyz", "/metrics", "/static"}
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


class RequestMetrics:
    """Metrics of the requests to one application."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ("method", "route")
        self.requests = Counter(
            "seesae_http_requests", "Requests answered, by status.", (*labels, "status"), registry=registry
        )
        self.seconds = Histogram(
            "seesae_http_request_seconds",
            "Seconds to the end of the answer.",
            labels,
            buckets=_BUCKETS,
            registry=registry,
        )


class RequestMiddleware:
    """Pure ASGI, so that endless answers (server-sent events) stream through it."""

    def __init__(self, app: ASGIApp, metrics: RequestMetrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle the request and record it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 0

        async def watched_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                spent = 1000 * (time.perf_counter() - started)
                MutableHeaders(scope=message)["Server-Timing"] = f"app;dur={spent:.1f}"
            await send(message)

        try:
            await self.app(scope, receive, watched_send)
        finally:
            self._record(scope, status, time.perf_counter() - started)

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        method = scope["method"] if scope["method"] in _METHODS else "other"  # it may be any word
        route = route_template(scope)
        self.metrics.requests.labels(method, route, str(status)).inc()
        self.metrics.seconds.labels(method, route).observe(seconds)
        if route not in _QUIET:
            log.info("request", method=method, route=route, status=status, ms=round(1000 * seconds, 1))


def route_template(scope: Scope) -> str:
    """Return the route, `/saes/{sae}` for /saes/smollm2-l9: bounded in number, and free of people's text.

    Routers carry their whole prefix themselves (none is added by `include_router`): Starlette's scope holds the
    route as its own router knows it.
    """
    route = scope.get("route")
    return getattr(route, "path", None) or "(none)"
