"""The inference process: an HTTP service for the web process alone, on loopback or a private network.

It is a process of its own so that its failures, running out of memory above all, leave the site running. Prompts come
in the body of a request and are neither kept nor logged.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse, Response

from app.artifacts import require_store
from app.asgi import BodyLimitMiddleware, UnexpectedErrorMiddleware
from app.db import create_engine, create_sessionmaker
from app.errors import Loading, Unavailable, UserError
from app.inference.dependencies import require_secret, timed
from app.inference.engine import ProbeEngine
from app.inference.loading import Loads, LoadTimes
from app.inference.metrics import InferenceMetrics
from app.inference.model_thread import run_in_model_thread
from app.inference.preloading import Preloading
from app.inference.residency import Residency
from app.inference.routes import ROUTERS
from app.inference.scheduler import Scheduler
from app.problems import problem
from app.redaction import redact
from app.settings import Settings, require_backend

log = structlog.get_logger("inference")

_MAX_BODY_BYTES = 8_000_000
"""Above the web's own limit, because JSON may escape one byte as six."""

_WAITING = 64
"""Requests of each kind that wait for their turn; a probe takes a tenth of a second, a first draw of a store longer."""
_DRAWS = 2
"""Draws at once: they read the disk, and leave the processor to the probes."""


def create_app(settings: Settings) -> FastAPI:
    """Create the inference service.

    Raises:
        UserError: no secret or no database is set, the back end is not installed, or the object store cannot be used.
    """
    require_backend(settings)
    require_store(settings)
    if settings.inference_secret is None or not settings.inference_secret.get_secret_value():
        raise UserError(
            "The inference process needs a secret that it shares with the site: set SEESAE_INFERENCE_SECRET."
        )
    if settings.database_url is None:
        raise UserError("The inference process needs the site's database: set SEESAE_DATABASE_URL.")
    app = FastAPI(
        openapi_url=None,
        lifespan=_lifespan,
        middleware=[
            Middleware(UnexpectedErrorMiddleware, answer=_unexpected),
            Middleware(BodyLimitMiddleware, limit=_MAX_BODY_BYTES),
        ],
    )
    app.state.secret = settings.inference_secret.get_secret_value().encode()
    app.state.engine = create_engine(settings.database_url, statement_timeout=settings.statement_timeout)
    app.state.sessions = create_sessionmaker(app.state.engine)
    app.state.residency = Residency(settings)
    app.state.probe_engine = ProbeEngine(app.state.residency, settings.probe_max_tokens)
    app.state.scheduler = Scheduler(1, _WAITING)
    app.state.draw_scheduler = Scheduler(_DRAWS, _WAITING)
    app.state.registry = CollectorRegistry()
    app.state.metrics = InferenceMetrics(
        app.state.registry,
        app.state.residency,
        {"model": app.state.scheduler, "examples": app.state.draw_scheduler},
    )
    times = LoadTimes(settings.home / "cache" / "load-seconds.json")
    app.state.loads = Loads(app.state.probe_engine, app.state.scheduler, times)
    app.state.preloading = Preloading(app.state.sessions, app.state.loads)
    app.add_exception_handler(UserError, _user_error)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_api_route("/healthz", healthz)
    for router in ROUTERS:
        app.include_router(router, dependencies=[Depends(require_secret), Depends(timed)])
    app.add_api_route("/metrics", metrics, dependencies=[Depends(require_secret)])
    return app


async def healthz() -> PlainTextResponse:
    """Answer that the process is up."""
    return PlainTextResponse("ok\n")


async def metrics(request: Request) -> Response:
    """Return the metrics in Prometheus' text format; the site's own /metrics passes them on."""
    return Response(generate_latest(request.app.state.registry), media_type=CONTENT_TYPE_LATEST)


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    preloading = app.state.preloading_task = asyncio.create_task(app.state.preloading.run())
    try:
        yield
    finally:
        preloading.cancel()
        await asyncio.wait({preloading})
        await run_in_model_thread(app.state.residency.modules.clear)  # vLLM's processes would stay
        await app.state.engine.dispose()


async def _user_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, UserError)
    request.app.state.metrics.refusals.labels(type(error).__name__).inc()
    if error.__cause__ is not None:
        log.warning("probe_failed", exc_info=error)
    extra = {}
    if isinstance(error, Loading):
        extra["loading"] = {"what": error.what, "elapsed": error.elapsed, "expected": error.expected}
    headers = {"Retry-After": str(error.retry_after)} if isinstance(error, Unavailable) else None
    return problem(error.status, error.title, redact(str(error)), headers=headers, **extra)


async def _http_exception(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return problem(error.status_code, "Refused", error.detail)


async def _validation_error(_request: Request, _error: Exception) -> Response:
    return problem(
        422,
        "Not understood",
        "The inference process was asked for something it does not know; are both of one version?",
    )


def _unexpected(_request: Request, error: Exception) -> Response:
    log.error("unexpected_error", exc_info=error)
    return problem(500, "Something went wrong", "A fault in the inference process; its log has more.")
