"""ETags: an unchanged page is not made or sent again, and whatever changes a page changes its tag."""

from pathlib import Path

import httpx
import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from app.web import caching
from sae_core.statistics import spec
from tests.factories import Synthetic, add_label, publish_features
from tests.people import sign_in
from tests.synthetic import make_features
from tests.web.site import app_of

pytestmark = pytest.mark.read_only

PAGES = ["", "/features", "/features?sort=max&label=unlabelled", "/features/1", "/features/1?label=1"]


@pytest.fixture
def base(made: Synthetic) -> str:
    return f"/saes/{made.sae.slug}"


async def tag(client: httpx.AsyncClient, address: str, **headers: str) -> str:
    response = await client.get(address, headers=headers)
    assert response.status_code == 200
    return response.headers["etag"]


@pytest.mark.parametrize("page", [*PAGES, "/../../", "/../../runs", "/../../label"])
async def test_an_unchanged_page_is_not_sent_again(client: httpx.AsyncClient, base: str, page: str) -> None:
    first = await client.get(base + page)
    again = await client.get(base + page, headers={"If-None-Match": f'"other", {first.headers["etag"]}'})
    assert again.status_code == 304
    assert again.content == b""
    for name in ("etag", "cache-control", "vary"):
        assert again.headers[name].split(", ")[0] == first.headers[name].split(", ")[0]
    assert first.headers["cache-control"] == "private, no-cache"


@pytest.mark.parametrize(("page", "statements_allowed"), [("/features", 2), ("/features/1", 3)])
async def test_an_unchanged_page_of_features_reads_no_feature(
    client: httpx.AsyncClient, base: str, page: str, statements_allowed: int
) -> None:
    """Only who reads, its SAE, and for one feature what there is about it: here neither lists nor comparisons."""
    known = await tag(client, base + page)
    statements: list[str] = []
    event.listen(
        app_of(client).state.engine.sync_engine, "before_cursor_execute", lambda *args: statements.append(args[2])
    )
    assert (await client.get(base + page, headers={"If-None-Match": known})).status_code == 304
    assert len(statements) == statements_allowed
    assert not any("feature_match" in statement for statement in statements)


@pytest.mark.own_database
async def test_a_label_of_any_feature_changes_the_pages(
    client: httpx.AsyncClient, made: Synthetic, base: str, session: AsyncSession
) -> None:
    before = [await tag(client, base + page) for page in PAGES[1:]]
    await add_label(session, made.sae, 5, "of a neighbour")
    await session.commit()
    assert not {await tag(client, base + page) for page in PAGES[1:]} & set(before)


@pytest.mark.own_database
async def test_a_new_index_changes_the_pages(
    client: httpx.AsyncClient, made: Synthetic, base: str, engine: AsyncEngine
) -> None:
    before = [await tag(client, base + page) for page in PAGES]
    assert made.sae.index
    await publish_features(engine, made.sae, made.sae.index.sequence_set.id, make_features(made.corpus, seed=9))
    assert not {await tag(client, base + page) for page in PAGES} & set(before)


async def test_each_address_and_form_of_a_page_has_its_own(client: httpx.AsyncClient, base: str) -> None:
    page = f"{base}/features/1"
    tags = {
        await tag(client, page),
        await tag(client, f"{base}/features/2"),
        await tag(client, f"{base}/features"),
        await tag(client, f"{base}/features", HX_Request="true"),
        await tag(client, f"{base}/features", **{"HX-Request": "true"}),
        await tag(client, f"{base}/features?q=a"),
    }
    assert len(tags) == 5


@pytest.mark.own_database
async def test_each_person_has_their_own(client: httpx.AsyncClient, base: str, engine: AsyncEngine) -> None:
    people = [await sign_in(engine, name) for name in ("ada", "grace")]
    tags = {await tag(client, f"{base}/features/1", **person.headers) for person in people}
    assert len(tags) == 2


async def test_another_build_has_other_tags(
    client: httpx.AsyncClient, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await tag(client, f"{base}/features/1")
    monkeypatch.setattr(caching, "build_hash", lambda: "another")
    assert await tag(client, f"{base}/features/1") != before


def test_a_build_is_known_by_the_declarations_that_pages_show(monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    real = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path) or real(path))
    caching.build_hash.__wrapped__()
    assert Path(spec.__file__) in read


async def test_errors_have_no_tag(client: httpx.AsyncClient, base: str) -> None:
    for address in (f"{base}/features/99", f"{base}/features?sort=colour", "/nothing"):
        assert "etag" not in (await client.get(address)).headers


async def test_responses_have_a_server_timing(client: httpx.AsyncClient, base: str) -> None:
    said = (await client.get(base)).headers["server-timing"]
    assert said.startswith("app;dur=")
    assert 0 < float(said.partition("=")[2]) < 60_000
