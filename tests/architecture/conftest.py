"""A site and a job context on one database, to add something to."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from app.runs.job_context import JobContext
from app.settings import Settings
from tests.web.site import site


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return Settings(database_url=database_url, home=tmp_path / "home", device="cpu", author="ada")


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with site(settings) as client:
        yield client


@pytest.fixture
def ctx(settings: Settings, engine: AsyncEngine, sessionmaker: async_sessionmaker[AsyncSession]) -> JobContext:
    return JobContext(settings, engine, sessionmaker)
