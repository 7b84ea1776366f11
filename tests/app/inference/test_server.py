"""The inference service without the site: its secret, and its answers to bad requests."""

import threading
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncEngine

from app.errors import UserError
from app.inference.ranking import ranked
from app.inference.server import create_app
from app.inference.turns import Turns
from app.services.inference import SECRET_HEADER
from app.settings import Settings
from tests.app.inference.dictionaries import Dictionary, publish
from tests.web.site import app_of

SECRET = "a secret of tests"


@pytest.fixture
def settings(dictionary: Dictionary, database_url: str) -> Settings:
    return dictionary.settings.model_copy(update={"database_url": database_url, "inference_secret": SecretStr(SECRET)})


@pytest.fixture
async def service(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(settings)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://inference") as client,
    ):
        yield client


async def test_healthz_needs_no_secret(service: httpx.AsyncClient) -> None:
    assert (await service.get("/healthz")).text == "ok\n"


@pytest.mark.parametrize(
    "headers", [{}, {SECRET_HEADER: ""}, {SECRET_HEADER: SECRET[:-1]}, {SECRET_HEADER: SECRET + "x"}]
)
async def test_requests_without_the_secret_are_refused(service: httpx.AsyncClient, headers: dict[str, str]) -> None:
    response = await service.post("/probe", json={"sae": "x", "text": "x"}, headers=headers)
    assert response.status_code == 403


async def test_the_event_loop_is_free_while_features_are_ranked(
    service: httpx.AsyncClient, dictionary: Dictionary, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = []

    def recorded(*arguments: Any) -> Any:
        threads.append(threading.get_ident())
        return ranked(*arguments)

    monkeypatch.setattr("app.inference.routes.probe.ranked", recorded)
    sae = await publish(engine, dictionary)
    body = {"sae": sae.slug, "text": "best of times"}
    response = await service.post("/probe", json=body, headers={SECRET_HEADER: SECRET})
    assert response.status_code == 200
    assert len(threads) == 1
    assert threads[0] != threading.get_ident()


async def test_probes_answer_and_bad_requests_are_refused(
    service: httpx.AsyncClient, dictionary: Dictionary, engine: AsyncEngine
) -> None:
    sae = await publish(engine, dictionary)
    headers = {SECRET_HEADER: SECRET}
    answer = await service.post("/probe", json={"sae": sae.slug, "text": "best of times"}, headers=headers)
    assert answer.json()["token_ids"] == dictionary.model.tokenize("best of times")
    statuses = [
        (await service.post("/probe", json=body, headers=headers)).status_code
        for body in ({"sae": "other", "text": "x"}, {"sae": sae.slug}, {"sae": sae.slug, "text": "x" * 9_000_000})
    ]
    assert statuses == [404, 422, 413]


@pytest.mark.parametrize(
    ("turns", "path", "body"),
    [
        ("turns", "/probe", {"text": "x"}),
        ("turns", "/texts", {"feature": 0, "texts": ["x"]}),
        ("draw_turns", "/examples", {"feature": 0, "low": 0, "high": 1, "limit": 1}),
    ],
)
async def test_a_request_that_finds_too_many_before_it_is_told_when_to_come_back(
    service: httpx.AsyncClient, dictionary: Dictionary, engine: AsyncEngine, turns: str, path: str, body: dict[str, Any]
) -> None:
    sae = await publish(engine, dictionary)
    setattr(app_of(service).state, turns, Turns(1, 0))
    response = await service.post(path, json={"sae": sae.slug, **body}, headers={SECRET_HEADER: SECRET})
    assert (response.status_code, response.json()["title"]) == (503, "Busy right now")
    assert int(response.headers["Retry-After"]) >= 1


async def test_an_unreachable_database_is_a_503(settings: Settings, unused_tcp_port: int) -> None:
    away = settings.model_copy(update={"database_url": f"postgresql://127.0.0.1:{unused_tcp_port}/none"})
    app = create_app(away)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://inference") as client:
        response = await client.post("/probe", json={"sae": "x", "text": "x"}, headers={SECRET_HEADER: SECRET})
    assert response.status_code == 503
    assert "database" in response.json()["detail"]


@pytest.mark.parametrize("missing", ["inference_secret", "database_url"])
def test_it_does_not_start_without_required_settings(settings: Settings, missing: str) -> None:
    with pytest.raises(UserError, match=f"SEESAE_{missing.upper()}"):
        create_app(settings.model_copy(update={missing: None}))


def test_an_empty_secret_is_refused(settings: Settings) -> None:
    with pytest.raises(UserError, match="SEESAE_INFERENCE_SECRET"):
        create_app(settings.model_copy(update={"inference_secret": SecretStr("")}))
