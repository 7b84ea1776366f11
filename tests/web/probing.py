"""A site whose probes are answered by a real inference service over a tiny model with a random SAE."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from pydantic import SecretStr

from app.settings import Settings
from tests.app.inference.dictionaries import Dictionary
from tests.web.site import SECRET, site


@asynccontextmanager
async def probing_site(dictionary: Dictionary, settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """Serve the database of `settings`, and answer probes from `dictionary`."""
    secret = {"inference_secret": SecretStr(SECRET)}
    inference = dictionary.settings.model_copy(update=secret | {"database_url": settings.database_url})
    async with site(settings.model_copy(update=secret), inference=inference) as client:
        yield client
