"""Query strings that no route knows, and every link of the site, which must name only what a route knows."""

import re
from collections.abc import AsyncIterator
from html import unescape
from pathlib import Path
from urllib.parse import urlencode, urljoin, urlsplit

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db import create_sessionmaker, transaction
from app.services.actors import Actor
from app.services.lists import ListText, NewItem, create_list
from app.settings import Settings
from tests.comparing import NARROW, WIDE, make_pair
from tests.conftest import as_reader
from tests.factories import add_label, add_run
from tests.web.api.problems import problem
from tests.web.html import Element, parse
from tests.web.site import site

pytestmark = pytest.mark.read_only

ADDRESSES = ("href", "src", "hx-get", "sse-connect")


@pytest.fixture(scope="module")
async def filled(module_engine: AsyncEngine) -> str:
    """Two SAEs with a comparison, a label, runs and more lists than a page holds; returns the id of a list."""
    narrow, _ = await make_pair(module_engine)
    async with transaction(create_sessionmaker(module_engine)) as session:
        await add_label(session, narrow.sae, 3, "rivers", categories=("water",))
        for ends in ("done", "failed", "running"):
            await add_run(session, narrow.sae, ends=ends)
        for number in range(51):
            made = await create_list(
                session, ListText(f"List {number}"), [NewItem(NARROW, 3), NewItem(WIDE, 5)], actor=Actor("ada")
            )
    return made.public_id


@pytest.fixture
async def client(filled: str, module_database_url: str, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    settings = Settings(database_url=as_reader(module_database_url), home=tmp_path, author="ada")
    async with site(settings) as client:
        yield client


@pytest.mark.parametrize("path", ["/healthz", f"/saes/{NARROW}", "/runs/1/events"])
async def test_a_page_without_parameters_refuses_any(client: httpx.AsyncClient, path: str) -> None:
    response = await client.get(f"{path}?q=x")
    assert response.status_code == 422
    assert "parameter “q”" in parse(response.text).one("main").text


async def test_an_unknown_parameter_is_named_with_the_known_ones(client: httpx.AsyncClient) -> None:
    for path in ("/api/v1/runs", f"/api/v1/saes/{NARROW}/features", f"/api/v1/saes/{NARROW}/features/export"):
        assert "“min_densty”" in problem(await client.get(path, params={"min_densty": "1"}), 422)["detail"]
    found = problem(await client.get("/api/v1/runs", params={"limit": "1", "sort\0": "x" * 999}), 422)
    assert found["detail"] == "This address has no parameter “sort\0”. It has state, kind, limit, cursor."
    page = await client.get(f"/saes/{NARROW}/features", params={"min_densty": "1"})
    assert page.status_code == 422
    assert "min_densty" in page.text
    assert "min_density" in page.text
    assert problem(await client.post("/api/v1/lists?name=x", json={"name": "x"}), 422)["detail"].endswith(
        "It has none."
    )


async def test_every_link_of_the_site_names_only_known_parameters(client: httpx.AsyncClient) -> None:
    todo, seen = ["/"], {}
    while todo:
        address = todo.pop()
        kind = re.sub(r"\d+|[\w-]{12}(?=$|[/?])", "0", address)
        kind = re.sub(r"=[^&]*", "=", kind)
        if kind in seen:
            continue
        if "/events" in address:  # those of a running run do not end
            address = re.sub(r"\d+/events", "999999/events", address)
        response = await client.get(address)
        seen[kind] = response.status_code
        assert response.status_code in (200, 303, 404, 409, 503), f"{address}: {response.text[:500]}"
        if response.headers.get("content-type", "").startswith("text/html"):
            todo += [found for found in links(parse(response.text), address) if not found.startswith("/static/")]
    assert {"/runs", "/lists?before="} <= set(seen)
    assert sum("?" in kind for kind in seen) > 30


def links(page: Element, base: str) -> list[str]:
    """Every address on this site that a page names, and those of its GET forms with all their fields."""
    found = []
    for element in page.all():
        if element.attributes.get("method", "get") == "post":
            continue
        if element.tag != "form":
            found += [element[name] for name in ADDRESSES if element.attributes.get(name)]
        else:
            names = {
                field["name"]: field.attributes.get("value") or ""
                for tag in ("input", "select", "textarea")
                for field in element.all(tag)
                if field.attributes.get("name")
            }
            found.append(f"{element.attributes.get('action') or base}?{urlencode(names)}")
    whole = [urlsplit(urljoin(f"http://localhost{base}", unescape(address))) for address in found]
    return [url._replace(scheme="", netloc="", fragment="").geturl() for url in whole if url.netloc == "localhost"]
