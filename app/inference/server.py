"""The inference process: an HTTP service for the web process alone, on loopback or a private network.

It is a process of its own so that what it may run into, out of memory above all, leaves the site standing. Prompts come
in the body of a request and are neither kept nor logged.
"""

import hmac
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import numpy as np
import structlog
from fastapi import Depends, FastAPI, Header, Request
from fastapi.exceptions import RequestValidationError
from sqlalchemy.ext.asyncio import AsyncSession
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse, Response

from app.asgi import BodyLimitMiddleware, UnexpectedErrorMiddleware
from app.db import create_engine, create_sessionmaker, transaction
from app.errors import NotFound, UserError
from app.inference.engine import ProbeEngine, SparseActivations
from app.inference.example_sampler import ActivationRange
from app.inference.lru_cache import LRUCache
from app.inference.ranking import ActivationDistributions, FeatureIds, ranked
from app.problems import problem
from app.queries.features import feature_histograms
from app.queries.saes import SaeDetail, get_sae
from app.services.inference import (
    SECRET_HEADER,
    DrawAnswer,
    DrawRequest,
    ProbeAnswer,
    ProbeRequest,
    TriedText,
    TryAnswer,
    TryRequest,
)
from app.settings import Settings

log = structlog.get_logger("inference")

_MAX_BODY_BYTES = 8_000_000
"""Above the web's own limit, because JSON may escape one byte as six."""
_DECIMALS = 4
"""Of percentiles on the wire: a hundredth of what one activation in ten thousand moves."""
_INDEXES = 8
"""Indexes whose distributions are kept; each takes 0.4 kB for a feature that was ever met."""


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
    app.state.distributions = LRUCache(_INDEXES)
    app.add_exception_handler(UserError, _user_error)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_api_route("/healthz", healthz)
    for path, route in (("/probe", probe), ("/draw", sample_examples), ("/try", try_texts)):
        app.add_api_route(path, route, methods=["POST"], dependencies=[Depends(require_secret)])
    return app


async def require_secret(request: Request, secret: Annotated[str, Header(alias=SECRET_HEADER)] = "") -> None:
    """Refuse who does not know the secret; compared in constant time, so that it cannot be guessed by the clock."""
    if not hmac.compare_digest(secret.encode(), request.app.state.secret):
        raise HTTPException(403, f"The header {SECRET_HEADER} must hold SEESAE_INFERENCE_SECRET.")


async def healthz() -> PlainTextResponse:
    """The process is up."""
    return PlainTextResponse("ok\n")


async def probe(asked: ProbeRequest, request: Request) -> Response:
    """Run a text through a model and an SAE."""
    started = time.perf_counter()
    async with transaction(request.app.state.sessions) as session:
        sae = await _sae(session, asked.sae)
    sparse: SparseActivations = await run_in_threadpool(request.app.state.probes.probe, sae, asked.text)
    ran = time.perf_counter()
    features, maxima = sparse.max_per_feature()
    distributions = await _distributions(request, sae, features)
    order = ranked(features, maxima, distributions, sum(sparse.counted))
    answer = ProbeAnswer(
        token_ids=sparse.token_ids,
        counted=sparse.counted,
        features=sparse.features.tolist(),
        positions=sparse.positions.tolist(),
        activations=sparse.activations.tolist(),
        percentiles=_shown(distributions, sparse),
        ranked=order.tolist(),
        maxima=distributions.maximum(order).tolist() if distributions else [0.0] * len(order),
    )
    seconds = time.perf_counter() - started
    log.info(
        "probe",
        sae=sae.slug,
        tokens=len(answer.token_ids),
        ms=round(1000 * seconds, 1),
        model_ms=round(1000 * (ran - started), 1),
    )
    return Response(answer.model_dump_json(), media_type="application/json")


async def sample_examples(asked: DrawRequest, request: Request) -> DrawAnswer:
    """Draw examples from the activation store of the SAE's index."""
    async with transaction(request.app.state.sessions) as session:
        sae = await _sae(session, asked.sae)
    if sae.index is None or asked.feature not in range(sae.d_sae):
        raise NotFound("There is no such feature.")
    wanted = ActivationRange(asked.feature, asked.low, asked.high, asked.sequence)
    probes: ProbeEngine = request.app.state.probes
    found, examples = await run_in_threadpool(probes.sample_examples, sae, wanted, limit=asked.limit, seed=asked.seed)
    return DrawAnswer(index=sae.index.id, found=found, examples=examples)


async def try_texts(asked: TryRequest, request: Request) -> TryAnswer:
    """Look at one feature on some texts."""
    async with transaction(request.app.state.sessions) as session:
        sae = await _sae(session, asked.sae)
    probes: ProbeEngine = request.app.state.probes
    return TryAnswer(texts=[await run_in_threadpool(_try, probes, sae, asked.feature, text) for text in asked.texts])


def _try(probes: ProbeEngine, sae: SaeDetail, feature: int, text: str) -> TriedText:
    sparse = probes.probe(sae, text)
    own = sparse.features == feature
    activations = np.zeros(len(sparse.token_ids))
    activations[sparse.positions[own]] = sparse.activations[own]
    return TriedText(token_ids=sparse.token_ids, counted=sparse.counted, activations=activations.tolist())


def _shown(distributions: ActivationDistributions | None, sparse: SparseActivations) -> list[float] | None:
    if distributions is None:
        return None
    percentiles: list[float] = distributions.percentiles(sparse.features, sparse.activations).round(_DECIMALS).tolist()
    return percentiles


async def _sae(session: AsyncSession, slug: str) -> SaeDetail:
    sae = await get_sae(session, slug)
    if sae is None:
        raise NotFound("There is no such SAE.")
    return sae


async def _distributions(request: Request, sae: SaeDetail, features: FeatureIds) -> ActivationDistributions | None:
    """Those of the SAE's index, if it has one, with these features in it."""
    known = _known(request, sae)
    if known is not None and known.unknown(features):
        async with transaction(request.app.state.sessions) as session:
            # Read again: the first probe waits for the model, and the index may have been replaced meanwhile.
            sae = await _sae(session, sae.slug)
            known = _known(request, sae)
            if known is not None and (missing := known.unknown(features)):
                known.add(missing, await feature_histograms(session, sae, missing))
    return known


def _known(request: Request, sae: SaeDetail) -> ActivationDistributions | None:
    if sae.index is None:
        return None
    held: LRUCache[int, ActivationDistributions] = request.app.state.distributions
    tokens = sae.index.tokens
    return held.get(sae.index.id, lambda: ActivationDistributions(sae.d_sae, tokens))


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
    return problem(
        422,
        "Not understood",
        "The inference process was asked for something it does not know; are both of one version?",
    )


def _unexpected(_request: Request, error: Exception) -> Response:
    log.error("unexpected_error", exc_info=error)
    return problem(500, "Something went wrong", "A fault in the inference process; its log has more.")
