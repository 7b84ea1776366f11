"""Generated requests over every GET route, for a person and for a program: whatever is sent, no answer is a fault.

SEESAE_FUZZ_EXAMPLES raises the number of requests.
"""

import base64
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from fastapi.dependencies.utils import get_flat_params
from fastapi.params import Query
from fastapi.routing import APIRoute
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db import create_sessionmaker, transaction
from app.main import create_app
from app.queries.sql.cursors import Cursor
from app.services.actors import Actor
from app.services.lists import ListText, NewItem, create_list
from app.settings import Settings
from tests.comparing import NARROW, WIDE, make_pair
from tests.conftest import as_reader
from tests.factories import add_label, add_run
from tests.web.site import site

pytestmark = pytest.mark.read_only

EXAMPLES = int(os.environ.get("SEESAE_FUZZ_EXAMPLES", "100"))
NUMBERS = ["0", "1", "-1", "1e300", "1e-300", "inf", "nan", "2147483648", "9" * 30, "9" * 5000, "_1", "٣"]
WORDS = ["density", "max", "index", "true", "labelled", "unlabelled", "csv", "matched", "split", NARROW, WIDE]
AWKWARD = ["", "\0", "é", "a&b=c", "%", "x" * 300]
DEEP = (b"[" * 3_000, b'{"a":' * 2_000, b"[" * 3_000 + b"]" * 3_000)
CURSORS = st.builds(
    Cursor,
    st.sampled_from(["density", "max", "mean", "index", "matched this 1", "split this 1"]),
    st.booleans(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(0, 2**31 - 1),
    st.integers(0, 2**31 - 1),
).map(Cursor.encode) | (st.binary(max_size=40) | st.sampled_from(DEEP)).map(
    lambda raw: base64.urlsafe_b64encode(raw).decode()
)
TEXTS = st.sampled_from([*NUMBERS, *WORDS, *AWKWARD]) | st.text(max_size=12) | st.floats().map(str) | CURSORS
SAES = st.sampled_from([NARROW, WIDE])
LIKELY = {"{sae}": SAES, "a": SAES, "b": SAES, "cursor": CURSORS, "show": st.sampled_from(["matched", "split"])}


def routes() -> list[tuple[str, list[str]]]:
    """The path and the query parameters of every route that answers GET, of pages and API."""
    app = create_app(Settings(database_url="postgresql://unused"))
    found = {}
    todo: list[Any] = list(app.routes)
    while todo:
        route = todo.pop()
        todo += getattr(getattr(route, "original_router", route), "routes", None) or []
        if isinstance(route, APIRoute) and "GET" in route.methods:
            fields = get_flat_params(route.dependant)
            found[route.path] = [field.alias for field in fields if isinstance(field.field_info, Query)]
    return sorted(found.items())


ROUTES = [route for route in routes() if not route[0].endswith("/events")]
"""An event stream of a running run does not end."""


def values(name: str) -> st.SearchStrategy[str]:
    """Values of a parameter, three of four such that the request gets past the first check."""
    likely = LIKELY.get(name, st.sampled_from(["1", "3"]) if name.startswith("{") else TEXTS)
    return st.integers(0, 3).flatmap(lambda roll: likely if roll else TEXTS)


@st.composite
def addresses(draw: st.DrawFn) -> str:
    path, names = draw(st.sampled_from(ROUTES))
    parts = [quote(draw(values(part)) or "0", safe="") if part.startswith("{") else part for part in path.split("/")]
    chosen = draw(st.lists(st.sampled_from(names), max_size=4)) if names else []
    if draw(st.integers(0, 9)) == 0:
        chosen.append(draw(st.text(min_size=1, max_size=8)))
    query = "&".join(f"{quote(name, safe='')}={quote(draw(values(name)), safe='')}" for name in chosen)
    return "/".join(parts) + (f"?{query}" if query else "")


@pytest.fixture(scope="module")
async def filled(module_engine: AsyncEngine) -> None:
    """Two SAEs with a comparison, labels, runs and a list."""
    narrow, _ = await make_pair(module_engine)
    async with transaction(create_sessionmaker(module_engine)) as session:
        await add_label(session, narrow.sae, 3, "rivers", categories=("water",))
        await add_run(session, narrow.sae)
        await create_list(session, ListText("Rivers"), [NewItem(NARROW, 3)], actor=Actor("ada"))


@pytest.fixture
async def client(filled: None, module_database_url: str, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with site(Settings(database_url=as_reader(module_database_url), home=tmp_path)) as client:
        yield client


def test_there_are_routes_to_try() -> None:
    paths = {path for path, _ in ROUTES}
    assert {"/", "/saes/{sae}/features", "/api/v1/saes/{sae}/features", "/lists/{id}", "/compare"} <= paths
    assert "cursor" in dict(ROUTES)["/api/v1/compare"]


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(address=addresses(), htmx=st.booleans())
@example(address=f"/api/v1/saes/{NARROW}/features?cursor={base64.urlsafe_b64encode(DEEP[0]).decode()}", htmx=False)
async def test_no_request_is_a_fault_of_the_site(client: httpx.AsyncClient, address: str, htmx: bool) -> None:
    response = await client.get(address, headers={"HX-Request": "true"} if htmx else {})
    assert response.status_code < 500 or (response.status_code == 503 and "inference" in response.text), response.text
    assert "Traceback" not in response.text
    if response.status_code >= 400 and address.startswith("/api/v1/"):
        assert json.loads(response.text)["detail"]
