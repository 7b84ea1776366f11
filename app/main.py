"""The web process: pages, API, static files. It never imports torch.

From the outside in, a request passes: security headers, log and metrics, the handler of unexpected exceptions, the
checks of host and origin, the limit of its body, compression, the routes.
"""

import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from importlib.metadata import version
from typing import Any

from fastapi import APIRouter, Depends, FastAPI
from fastapi.middleware.gzip import GZipMiddleware
from prometheus_client import CollectorRegistry
from pydantic.json_schema import models_json_schema
from starlette.middleware import Middleware
from starlette.routing import BaseRoute

import app.pipeline  # noqa: F401 - makes the kinds of run known
from app.asgi import BodyLimitMiddleware, UnexpectedErrorMiddleware
from app.db import create_engine, create_readers, create_sessionmaker
from app.errors import UserError
from app.paths import STATIC
from app.problems import SCHEMA, Problem
from app.services.adjudication import DecisionConflict
from app.services.changes import Changes
from app.services.inference import InferenceClient
from app.services.labels import LabelConflict
from app.services.lists import ListConflict
from app.settings import Settings
from app.web import api, errors, health, pages
from app.web.caching import NotModified, answer_not_modified
from app.web.completion_metrics import CompletionMetrics
from app.web.dependencies import check_role
from app.web.fragments import Fragments
from app.web.openai_errors import OpenAiErrorOut
from app.web.parameters import refuse_unknown_parameters
from app.web.permissions import check_routes
from app.web.requests import RequestMetrics, RequestMiddleware
from app.web.security import HostMiddleware, SameSiteMiddleware, SecurityHeadersMiddleware
from app.web.static import VersionedStaticFiles

MAX_BODY_BYTES = 1_000_000
UPLOADS = {"/textsets": 32_000_000, "/api/v1/textsets": 32_000_000}
"""Addresses that take more bytes than others."""
"""No valid request is larger: a prompt of 1,024 tokens has a few kilobytes, a label less."""

_GARBAGE = 20_000
"""New objects between two garbage collections: those of a few pages; the default is a fraction of one page."""


def create_app(settings: Settings) -> FastAPI:
    """Create the site on the database at `settings.database_url`.

    Raises:
        UserError: there is no database address; `seesae serve` starts an embedded Postgres and sets it.
    """
    if settings.database_url is None:
        raise UserError(
            "The web process needs a database: set SEESAE_DATABASE_URL, or use seesae serve, which brings its own."
        )
    registry = CollectorRegistry()
    app = _Site(
        title="SeeSAE",
        version=version("seesae"),
        description=api.DESCRIPTION,
        openapi_tags=api.TAGS,
        openapi_url="/api/openapi.json",
        docs_url=None,  # FastAPI's pages load from a CDN; api.docs serves a vendored one
        redoc_url=None,
        lifespan=_lifespan,
        middleware=[
            Middleware(SecurityHeadersMiddleware, https=settings.is_https),
            Middleware(RequestMiddleware, metrics=RequestMetrics(registry)),
            Middleware(UnexpectedErrorMiddleware, answer=errors.unexpected),
            Middleware(HostMiddleware, bound_to=settings.host, base_url=settings.base_url),
            Middleware(SameSiteMiddleware, base_url=settings.base_url),
            Middleware(BodyLimitMiddleware, limit=MAX_BODY_BYTES, uploads=UPLOADS),
            # The fastest level: an answer to a probe takes 0.6 ms instead of 1.5, and is a sixth larger.
            Middleware(GZipMiddleware, minimum_size=1_000, compresslevel=1),
        ],
        swagger_ui_oauth2_redirect_url=None,
    )
    app.state.settings = settings
    app.state.registry = registry
    app.state.engine = create_engine(settings.database_url, statement_timeout=settings.statement_timeout)
    app.state.sessionmaker = create_sessionmaker(app.state.engine)
    app.state.readers = create_readers(app.state.engine)
    app.state.completion_metrics = CompletionMetrics(registry)
    app.state.inference = InferenceClient(settings)
    app.state.changes = Changes(settings.database_url)
    app.state.fragments = Fragments()
    errors.install(app)
    app.add_exception_handler(NotModified, answer_not_modified)
    app.add_exception_handler(LabelConflict, api.labels.answer_conflict)
    app.add_exception_handler(ListConflict, api.lists.answer_conflict)
    app.add_exception_handler(DecisionConflict, api.agreement.answer_conflict)
    app.router.routes.extend(_routes())
    check_routes(app.routes)
    app.mount("/static", VersionedStaticFiles(directory=STATIC), name="static")
    return app


class _Site(FastAPI):
    def openapi(self) -> dict[str, Any]:
        """Return OpenAPI's description, with the shapes of errors, to which hundreds of answers only refer."""
        description = super().openapi()
        shapes = models_json_schema(
            [(Problem, "serialization"), (OpenAiErrorOut, "serialization")], ref_template=SCHEMA
        )
        description["components"]["schemas"] |= shapes[1]["$defs"]
        return description


@cache
def _routes() -> list[BaseRoute]:
    """Return the routes that all sites of a process share: FastAPI reads what each endpoint takes at its first request,
    which takes longer than to answer it. Not one router for all of them, which would look for the route once more."""
    table = APIRouter(dependencies=[Depends(check_role), Depends(refuse_unknown_parameters)])
    for router in pages.ROUTERS:
        table.include_router(router, include_in_schema=False)
    for router in (health.router, *api.ROUTERS):
        table.include_router(router)
    return table.routes


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open connections only when they are needed, so that the site starts without a database."""
    gc.freeze()  # what is loaded now stays loaded: scanning it again would delay pages
    gc.set_threshold(_GARBAGE, 20, 50)
    try:
        yield
    finally:
        await app.state.changes.close()
        await app.state.inference.close()
        await app.state.engine.dispose()
