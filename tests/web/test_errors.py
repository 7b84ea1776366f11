"""Errors, as a program, a person and htmx receive them."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import psycopg
import pytest
from fastapi import APIRouter
from fastapi.responses import StreamingResponse
from pydantic import SecretStr

from app.asgi import BrokenAnswerError
from app.database_url import libpq_url
from app.errors import UserError
from app.main import create_app
from app.settings import Settings
from tests.conftest import TEMPLATE
from tests.web.api.problems import problem
from tests.web.site import app_of, production_logging, site


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return Settings(database_url=database_url, home=tmp_path, inference_secret=SecretStr("x"))


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with site(settings) as client:
        yield client


def test_the_site_needs_a_database() -> None:
    with pytest.raises(UserError, match="SEESAE_DATABASE_URL"):
        create_app(Settings(database_url=None))


async def test_a_program_gets_a_problem(client: httpx.AsyncClient) -> None:
    found = problem(await client.get("/api/v1/nothing"), 404)
    assert found["type"] == "about:blank"
    assert found["title"] == "Not found"


async def test_a_person_gets_a_page(client: httpx.AsyncClient) -> None:
    response = await client.get("/nothing/here")
    assert response.status_code == 404
    assert response.headers["content-type"].startswith("text/html")
    assert "<!doctype html>" in response.text
    assert "nothing at this address" in response.text


async def test_htmx_gets_a_fragment(client: httpx.AsyncClient) -> None:
    response = await client.get("/nothing/here", headers={"HX-Request": "true"})
    assert response.status_code == 404
    assert "<html" not in response.text
    assert "nothing at this address" in response.text
    assert "HX-Request" in response.headers["vary"]


async def test_a_method_that_is_not_allowed_is_explained(client: httpx.AsyncClient) -> None:
    response = await client.delete("/api/v1/saes")
    assert "does not take DELETE" in problem(response, 405)["detail"]
    assert response.headers["allow"] == "GET"


async def test_errors_cut_and_escape_input(client: httpx.AsyncClient) -> None:
    response = await client.get("/<script>alert(1)</script>")
    assert "<script>alert" not in response.text
    found = problem(await client.get("/api/v1/saes/" + "x" * 50_000), 404)
    assert len(found["detail"]) < 300


async def test_an_unexpected_error_has_an_id_and_no_traceback(
    client: httpx.AsyncClient, capfd: pytest.CaptureFixture[str]
) -> None:
    router = APIRouter()

    @router.get("/api/v1/broken")
    @router.get("/broken")
    async def broken() -> None:
        raise ZeroDivisionError("what somebody typed")

    app_of(client).router.routes[:0] = router.routes
    with production_logging():  # again, to this test's standard error
        found = problem(await client.get("/api/v1/broken"), 500)
        page = await client.get("/broken")
    assert page.status_code == 500
    for text in (found["detail"], page.text):
        assert "Traceback" not in text
        assert "ZeroDivisionError" not in text
        assert "what somebody typed" not in text
    log = "".join(capfd.readouterr())
    assert found["error_id"] in log
    assert "ZeroDivisionError" in log


async def test_the_site_recovers_after_the_database_was_away(client: httpx.AsyncClient, database_url: str) -> None:
    assert (await client.get("/api/v1/saes")).status_code == 200  # the pool has a connection now
    name = database_url.rpartition("/")[2].partition("?")[0]
    with psycopg.connect(libpq_url(database_url.replace(f"/{name}", "/postgres")), autocommit=True) as connection:
        connection.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", [name])
        connection.execute(f"ALTER DATABASE {name} RENAME TO {name}_away")
        try:
            response = await client.get("/api/v1/saes")
            assert "database cannot be reached" in problem(response, 503)["detail"]
            assert response.headers["retry-after"]
            page = await client.get("/runs")
            assert page.status_code == 503
            assert "database cannot be reached" in page.text
            assert (await client.get("/readyz")).status_code == 503
            assert (await client.get("/healthz")).status_code == 200
        finally:
            connection.execute(f"ALTER DATABASE {name}_away RENAME TO {name}")
    assert (await client.get("/api/v1/saes")).status_code == 200
    assert (await client.get("/readyz")).status_code == 200


async def test_a_connection_that_was_cut_is_replaced(client: httpx.AsyncClient, database_url: str) -> None:
    assert (await client.get("/api/v1/saes")).status_code == 200
    name = database_url.rpartition("/")[2].partition("?")[0]
    with psycopg.connect(libpq_url(database_url.replace(f"/{name}", f"/{TEMPLATE}")), autocommit=True) as connection:
        connection.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", [name])
    assert (await client.get("/api/v1/saes")).status_code == 200


async def test_a_response_that_fails_midway_is_cut(client: httpx.AsyncClient) -> None:
    router = APIRouter()

    @router.get("/api/v1/breaks-off")
    async def breaks_off() -> StreamingResponse:
        async def parts() -> AsyncIterator[bytes]:
            yield b"first"
            raise ZeroDivisionError("what somebody typed")

        return StreamingResponse(parts())

    app_of(client).router.routes[:0] = router.routes
    with pytest.raises(BrokenAnswerError) as caught:
        await client.get("/api/v1/breaks-off")
    assert str(caught.value) == ""
    assert caught.value.__suppress_context__  # so the server logs no message of the cause either
