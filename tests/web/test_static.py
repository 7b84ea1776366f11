"""Static files: named by their content and kept for ever, or asked for each time; compressed once."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from app.paths import STATIC
from app.settings import Settings
from app.web import static
from app.web.rendering import static_url
from tests.web.site import site

SHEET = "css/tokens.css"
FONT = "vendor/inter-5.3.0.latin-wght.woff2"


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with site(Settings(database_url="postgresql://127.0.0.1:1/none", home=tmp_path)) as client:
        yield client


@pytest.mark.parametrize("address", [static_url(SHEET), static_url(FONT), f"/static/{FONT}"])
async def test_what_is_named_by_its_content_is_kept_for_ever(client: httpx.AsyncClient, address: str) -> None:
    response = await client.get(address)
    assert response.status_code == 200
    assert response.headers["cache-control"] == "public, max-age=31536000, immutable"


@pytest.mark.parametrize("address", [f"/static/{SHEET}", "/static/css/tokens.0123456789ab.css"])
async def test_any_other_address_gives_the_file_to_be_asked_for_again(client: httpx.AsyncClient, address: str) -> None:
    response = await client.get(address)
    assert response.text == (STATIC / SHEET).read_text()
    assert response.headers["cache-control"] == "public, no-cache"
    unchanged = await client.get(address, headers={"If-None-Match": response.headers["etag"]})
    assert unchanged.status_code == 304


@pytest.mark.parametrize("path", [SHEET, "js/keys.js", "vendor/plotly-basic-4.1.1.min.js"])
async def test_text_is_compressed_and_the_same(client: httpx.AsyncClient, path: str) -> None:
    response = await client.get(static_url(path), headers={"Accept-Encoding": "gzip"})
    plain = await client.get(static_url(path), headers={"Accept-Encoding": "identity"})
    assert response.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert response.content == plain.content == (STATIC / path).read_bytes()
    assert int(response.headers["content-length"]) < len(plain.content)
    assert response.headers["content-type"] == plain.headers["content-type"]
    assert {answer.headers["vary"] for answer in (response, plain)} == {"Accept-Encoding"}


async def test_a_file_is_compressed_once(client: httpx.AsyncClient) -> None:
    static._gzipped.cache_clear()
    for _ in range(3):
        await client.get(static_url(SHEET))
    assert static._gzipped.cache_info().misses == 1


async def test_what_is_compressed_already_is_left_alone(client: httpx.AsyncClient) -> None:
    response = await client.get(static_url(FONT), headers={"Accept-Encoding": "gzip"})
    assert "content-encoding" not in response.headers
    assert response.content == (STATIC / FONT).read_bytes()


async def test_a_part_of_a_file_is_given_as_it_is(client: httpx.AsyncClient) -> None:
    response = await client.get(static_url(SHEET), headers={"Accept-Encoding": "gzip", "Range": "bytes=0-9"})
    assert response.status_code == 206
    assert response.content == (STATIC / SHEET).read_bytes()[:10]


@pytest.mark.parametrize(
    "path",
    ["/static/nothing.css", "/static/nothing.0123456789ab.css", "/static/../app/main.py", "/static/%2e%2e/app/main.py"],
)
async def test_what_is_no_static_file_is_not_found(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(path)).status_code == 404
