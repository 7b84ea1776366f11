"""A site that answers prompts, with SAEs at two layers of one model, for modules whose tests change nothing."""

from collections.abc import AsyncIterator

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.queries.saes import SaeDetail
from tests.app.inference.dictionaries import Dictionary, add_early_sae
from tests.web.probing import probing_site


@pytest.fixture(scope="module")
async def two_layers(dictionary: Dictionary, module_engine: AsyncEngine, module_published: SaeDetail) -> SaeDetail:
    """The SAE of `dictionary`, and one of an earlier layer beside it, without an index."""
    await add_early_sae(module_engine, dictionary, module_published.model.id)
    return module_published


@pytest.fixture(scope="module")
async def live(
    dictionary: Dictionary, module_database_url: str, two_layers: SaeDetail
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of that site."""
    settings = dictionary.settings.model_copy(update={"database_url": module_database_url})
    async with probing_site(dictionary, settings) as client:
        yield client
