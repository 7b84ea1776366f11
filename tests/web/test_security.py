"""Protection from other sites, and security headers."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from app.settings import Settings, is_loopback
from tests.web.site import site

NOWHERE = "postgresql://127.0.0.1:1/none"


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with site(Settings(database_url=NOWHERE, home=tmp_path)) as client:
        yield client


@pytest.mark.parametrize("path", ["/healthz", "/nothing", "/api/v1/nothing", "/static/icon.svg", "/api/docs"])
async def test_every_answer_carries_the_headers(client: httpx.AsyncClient, path: str) -> None:
    headers = (await client.get(path)).headers
    policy = dict(rule.strip().split(" ", 1) for rule in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["script-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'self'"
    assert policy["base-uri"] == "'none'"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:3000"},
        {"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"},
    ],
)
async def test_another_site_changes_nothing(client: httpx.AsyncClient, headers: dict[str, str]) -> None:
    response = await client.put("/api/v1/saes/x/features/0/labels/mine", json={"explanation": "x"}, headers=headers)
    assert response.status_code == 403
    assert "another site" in response.json()["detail"]


@pytest.mark.parametrize(
    "headers", [{}, {"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}, {"Origin": "http://localhost"}]
)
async def test_this_site_and_programs_may_change_things(client: httpx.AsyncClient, headers: dict[str, str]) -> None:
    response = await client.put("/api/v1/saes/x/features/0/labels/mine", json={"explanation": "x"}, headers=headers)
    assert response.status_code == 503  # let through, to a database that is not there


async def test_a_link_from_another_site_may_be_followed(client: httpx.AsyncClient) -> None:
    assert (await client.get("/healthz", headers={"Sec-Fetch-Site": "cross-site"})).status_code == 200


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:8000", "[::1]:8000", "LOCALHOST"])
async def test_this_machines_names_are_answered(client: httpx.AsyncClient, host: str) -> None:
    assert (await client.get("/healthz", headers={"Host": host})).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "localhost.evil.example", "", "[", "127.0.0.2"])
async def test_another_name_for_this_machine_is_refused(client: httpx.AsyncClient, host: str) -> None:
    assert (await client.get("/healthz", headers={"Host": host})).status_code == 400


async def test_on_a_network_any_name_is_answered(tmp_path: Path) -> None:
    async with site(Settings(database_url=NOWHERE, home=tmp_path, host="0.0.0.0")) as client:
        assert (await client.get("/healthz", headers={"Host": "seesae.example"})).status_code == 200


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.0.0.2", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.5", False),
        ("seesae.example", False),
    ],
)
def test_loopback_addresses_are_recognised(host: str, loopback: bool) -> None:
    assert is_loopback(host) == loopback
