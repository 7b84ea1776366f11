"""The load at the start of the inference process."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncEngine

from app.inference.server import create_app
from app.queries.saes import newest_sae
from app.services.inference_messages import SaeRef
from app.services.inference_status import SECRET_HEADER, Preloaded
from app.settings import Settings
from tests.app.inference.dictionaries import Dictionary, make_dictionary, publish

SECRET = "a secret of tests"


async def preloaded(settings: Settings, database_url: str) -> tuple[Preloaded, bool]:
    """Start the service, wait for the end of its load; what it says, and whether it has the newest SAE in memory."""
    app = create_app(settings.model_copy(update={"database_url": database_url, "inference_secret": SecretStr(SECRET)}))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://inference") as client,
    ):
        assert (await client.get("/preloaded")).status_code == 403  # without the secret
        await app.state.preloading_task
        answer = await client.get("/preloaded", headers={SECRET_HEADER: SECRET})
        async with app.state.sessions() as session:
            newest = await newest_sae(session)
        loaded = newest is not None and app.state.residency.has_sae(SaeRef.of(newest))
        return Preloaded.model_validate_json(answer.content), loaded


@pytest.fixture
async def published(engine: AsyncEngine, tmp_path: Path) -> AsyncIterator[Dictionary]:
    dictionary = make_dictionary(tmp_path)
    await publish(engine, dictionary)
    yield dictionary


async def test_the_newest_sae_is_loaded_at_the_start(published: Dictionary, database_url: str) -> None:
    assert await preloaded(published.settings, database_url) == (Preloaded(state="ready", model="tiny"), True)


async def test_what_cannot_be_loaded_is_said_and_the_service_answers(published: Dictionary, database_url: str) -> None:
    shutil.rmtree(published.row.model.source)
    result, loaded = await preloaded(published.settings, database_url)
    assert (result.state, result.model, loaded) == ("failed", "tiny", False)
    assert "There is no model at" in result.reason


async def test_a_site_without_saes_loads_nothing(dictionary: Dictionary, database_url: str) -> None:
    assert await preloaded(dictionary.settings, database_url) == (Preloaded(state="nothing"), False)
