"""The site over a made-up SAE, for the tests of pages and API alike."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.settings import Settings
from tests.factories import Synthetic, make_sae
from tests.web.site import site


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return Settings(database_url=database_url, home=tmp_path, author="ada")


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with site(settings) as client:
        yield client


@pytest.fixture
async def made(engine: AsyncEngine) -> Synthetic:
    return await make_sae(engine)
