"""The site and the inference service as a test talks to them: in this process, through ASGI."""

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager

import httpx
import structlog
from fastapi import FastAPI

from app.inference import server
from app.logging import configure
from app.main import create_app
from app.services.inference import InferenceClient
from app.settings import Settings

SECRET = "a secret of tests"


@asynccontextmanager
async def site(settings: Settings, *, inference: Settings | None = None) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client of the site; with `inference`, the real inference service of those settings answers its probes.

    `app_of` returns its application.
    """
    async with AsyncExitStack() as stack:
        stack.enter_context(production_logging())
        if inference is not None:
            settings = settings.model_copy(update={"inference_url": "http://inference"})
        app = create_app(settings)
        if inference is not None:
            service = server.create_app(inference)
            await stack.enter_async_context(service.router.lifespan_context(service))
            app.state.inference = InferenceClient(settings, transport=httpx.ASGITransport(service))
            app.state.inference_service = service
        await stack.enter_async_context(app.router.lifespan_context(app))
        yield await stack.enter_async_context(
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost", trust_env=False)
        )


def app_of(client: httpx.AsyncClient) -> FastAPI:
    """Return the application of a client that `site` made."""
    transport = client._transport
    assert isinstance(transport, httpx.ASGITransport)
    assert isinstance(transport.app, FastAPI)
    return transport.app


@contextmanager
def production_logging() -> Iterator[None]:
    """Log as the processes do: structlog's own defaults print the locals of every frame, which takes seconds."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    configure("info", as_json=True)
    try:
        yield
    finally:
        root.handlers = handlers
        root.setLevel(level)
        structlog.reset_defaults()
