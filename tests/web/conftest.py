"""The site over a made-up SAE, for the tests of pages and API alike."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.queries.saes import SaeDetail
from app.settings import Settings
from tests.app.inference.dictionaries import Dictionary, make_dictionary, publish
from tests.conftest import only_reads
from tests.web.probing import probing_site
from tests.web.site import site


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return Settings(database_url=database_url, home=tmp_path, author="ada")


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with site(settings) as client:
        yield client


@pytest.fixture(scope="session")
def dictionary(tmp_path_factory: pytest.TempPathFactory) -> Dictionary:
    """A tiny model with a random SAE, which the inference service loads."""
    return make_dictionary(tmp_path_factory.mktemp("dictionary"))


@pytest.fixture
def published(request: pytest.FixtureRequest) -> SaeDetail:
    """The SAE of `dictionary`, as the database knows it."""
    return request.getfixturevalue("module_published" if only_reads(request) else "own_published")


@pytest.fixture(scope="module")
async def module_published(module_engine: AsyncEngine, dictionary: Dictionary) -> SaeDetail:
    return await publish(module_engine, dictionary)


@pytest.fixture
async def own_published(engine: AsyncEngine, dictionary: Dictionary) -> SaeDetail:
    return await publish(engine, dictionary)


@pytest.fixture
async def probing(dictionary: Dictionary, published: SaeDetail, settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of a site that answers probes."""
    async with probing_site(dictionary, settings) as client:
        yield client
