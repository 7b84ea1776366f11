"""A site whose probes are answered by a real inference service over a tiny model with a random SAE."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncEngine

from app.settings import Settings
from tests.app.inference.dictionaries import Dictionary, publish
from tests.web.site import SECRET, site


@asynccontextmanager
async def probing_site(
    dictionary: Dictionary, engine: AsyncEngine, settings: Settings
) -> AsyncIterator[httpx.AsyncClient]:
    """Publish `dictionary` on the database of `settings`, and serve it."""
    await publish(engine, dictionary)
    secret = {"inference_secret": SecretStr(SECRET)}
    inference = dictionary.settings.model_copy(update=secret | {"database_url": settings.database_url})
    async with site(settings.model_copy(update=secret), inference=inference) as client:
        yield client
