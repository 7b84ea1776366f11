"""The inference process: an HTTP service for the web process alone, on loopback or a private network.

It is a process of its own so that what it may run into, out of memory above all, leaves the site standing. Prompts come
in the body of a request and are neither kept nor logged.
"""

import hmac
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import structlog
from fastapi import Depends, FastAPI, Header, Request
from fastapi.exceptions import RequestValidationError
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse, Response

from app.asgi import BodyLimitMiddleware, UnexpectedErrorMiddleware
from app.db import create_engine, create_sessionmaker, transaction
from app.errors import NotFound, UserError
from app.inference.engine import ProbeEngine
from app.problems import problem
from app.queries.saes import SaeDetail, get_sae
from app.services.inference import SECRET_HEADER, ProbeAnswer, ProbeRequest
from app.settings import Settings

log = structlog.get_logger("inference")

_MAX_BODY_BYTES = 8_000_000
"""Above the web's own limit, because JSON may escape one byte as six."""


def create_app(settings: Settings) -> FastAPI:
    """The inference service.

    Raises:
        UserError: no secret or no database is set.
    """
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
    app.state.probes = ProbeEngine(settings)
    app.add_exception_handler(UserError, _user_error)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_api_route("/healthz", healthz)
    app.add_api_route("/probe", probe, methods=["POST"], dependencies=[Depends(require_secret)])
    return app


async def require_secret(request: Request, secret: Annotated[str, Header(alias=SECRET_HEADER)] = "") -> None:
    """Refuse who does not know the secret; compared in constant time, so that it cannot be guessed by the clock."""
    if not hmac.compare_digest(secret.encode(), request.app.state.secret):
        raise HTTPException(403, f"The header {SECRET_HEADER} must hold SEESAE_INFERENCE_SECRET.")


async def healthz() -> PlainTextResponse:
    """The process is up."""
    return PlainTextResponse("ok\n")


async def probe(asked: ProbeRequest, request: Request) -> ProbeAnswer:
    """Run a text through a model and an SAE."""
    started = time.perf_counter()
    sae = await _sae(request, asked.sae)
    answer: ProbeAnswer = await run_in_threadpool(request.app.state.probes.probe, sae, asked.text)
    seconds = time.perf_counter() - started
    log.info("probe", sae=sae.slug, tokens=len(answer.token_ids), ms=round(1000 * seconds, 1))
    return answer


async def _sae(request: Request, slug: str) -> SaeDetail:
    async with transaction(request.app.state.sessions) as session:
        sae = await get_sae(session, slug)
    if sae is None:
        raise NotFound("There is no such SAE.")
    return sae


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await app.state.engine.dispose()


async def _user_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, UserError)
    if error.__cause__ is not None:
        log.warning("probe_failed", exc_info=error)
    return problem(error.status, error.title, str(error))


async def _http_exception(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return problem(error.status_code, "Refused", error.detail)


async def _validation_error(_request: Request, _error: Exception) -> Response:
    return problem(422, "Not understood", "The inference process takes a sae and a text; are both of one version?")


def _unexpected(_request: Request, error: Exception) -> Response:
    log.error("unexpected_error", exc_info=error)
    return problem(500, "Something went wrong", "A fault in the inference process; its log has more.")
