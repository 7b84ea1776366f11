"""Pages of an SAE that was imported as statistics only: their text, and the functions that they do not offer."""

from pathlib import Path

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from app.db import create_sessionmaker
from app.runs.job_context import JobContext
from app.settings import Settings
from tests.app.pipeline.running import EXPORTS, import_statistics
from tests.web.html import parse

pytestmark = pytest.mark.read_only

SLUG = "theirs"
BASE = f"/saes/{SLUG}"


@pytest.fixture(scope="module")
async def imported(
    module_database_url: str, module_engine: AsyncEngine, tmp_path_factory: pytest.TempPathFactory
) -> None:
    settings = Settings(database_url=module_database_url, home=tmp_path_factory.mktemp("home"), author="ada")
    ctx = JobContext(settings, module_engine, create_sessionmaker(module_engine))
    await import_statistics(ctx, EXPORTS / "release", name=SLUG)


@pytest.fixture
def theirs(client: httpx.AsyncClient, imported: None) -> httpx.AsyncClient:
    """The site, with an import."""
    return client


async def test_the_overview_says_what_is_lacking(theirs: httpx.AsyncClient) -> None:
    page = parse((await theirs.get(BASE)).text)
    lacking = page.one("h2", id="lacking")
    assert lacking.text == "What the export lacks"
    text = page.text
    for words in ("no text can be probed", "5 of its 10 features", "counted in its examples only", "equal width"):
        assert words in text
    assert "not stated by the export" in text
    assert not page.all("h2", id="health")


async def test_no_page_offers_to_probe(theirs: httpx.AsyncClient) -> None:
    for address in ("", "/features", "/features/1", "/features/7"):
        page = parse((await theirs.get(BASE + address)).text)
        assert not [link for link in page.all("a") if "/probe" in (link.attributes.get("href") or "")], address


async def test_neither_a_map_of_directions_nor_trying_nor_drawing_is_offered(theirs: httpx.AsyncClient) -> None:
    overview, page = parse((await theirs.get(BASE)).text), parse((await theirs.get(f"{BASE}/features/1")).text)
    assert [box["data-axes"] for box in overview.all("div", cls="map")] == ["rate"]
    assert parse((await theirs.get(f"{BASE}/map")).text).one("div", cls="map")["data-axes"] == "rate"
    assert not page.all("form", cls="draw")
    assert not page.all("form", cls="try")
    assert (await theirs.post(f"{BASE}/features/1/try", data={"text": "some words"})).status_code == 409
    assert (await theirs.get(f"{BASE}/features/1/drawn?from=0&to=1")).status_code == 409
    by_example = f"/api/v1{BASE}/features/by-example"
    assert (await theirs.post(by_example, json={"text": "some words"})).status_code == 409


async def test_probing_is_refused_with_the_reason(theirs: httpx.AsyncClient) -> None:
    answer = await theirs.post(f"/api/v1{BASE}/probe", json={"text": "some words"})
    assert (answer.status_code, answer.json()["title"]) == (409, "No weights")
    form = await theirs.get(f"{BASE}/probe")
    assert form.status_code == 409
    sent = await theirs.post(f"{BASE}/probe", data={"text": "words"}, headers={"Origin": "http://localhost"})
    assert sent.status_code == 409
    assert "statistics only" in sent.text
    assert (await theirs.get(f"/api/v1{BASE}")).json()["has_weights"] is False


async def test_a_feature_that_is_not_in_the_export_is_not_dead(theirs: httpx.AsyncClient) -> None:
    absent = await theirs.get(f"{BASE}/features/4")
    assert absent.status_code == 404
    assert "is not in the export" in absent.text
    assert "not in the export" in (await theirs.get(f"/api/v1{BASE}/features/4")).json()["detail"]
    page = parse((await theirs.get(f"{BASE}/features/3")).text)
    around = [link["href"] for link in page.one("nav", aria_label="Other features").all("a")]
    assert around[:2] == [f"{BASE}/features/1", f"{BASE}/features/6"]
    for _ in range(12):
        address = (await theirs.get(f"{BASE}/features/random")).headers["location"]
        assert (await theirs.get(address)).status_code == 200
    listed = parse((await theirs.get(f"{BASE}/features")).text)
    assert "5 features of 10; 5 are not in the export" in listed.text
    assert len(listed.all("a", cls="feature-row")) == 5


async def test_a_feature_says_where_its_numbers_come_from(theirs: httpx.AsyncClient) -> None:
    page = parse((await theirs.get(f"{BASE}/features/1")).text)
    assert "Imported, not counted here" in page.text
    assert "Intervals of activation as the export has them" in page.text
    assert "which is all that the export has" in page.text
    silent = parse((await theirs.get(f"{BASE}/features/7")).text)
    assert "not active on any of the 288 tokens that the export counted" in silent.text


async def test_an_own_index_does_not_mention_an_export(client: httpx.AsyncClient, made: object, base: str) -> None:
    for address in ("", "/features/1", "/features"):
        assert "export lacks" not in (await client.get(base + address)).text
        assert "not in the export" not in (await client.get(base + address)).text


@pytest.mark.own_database
async def test_a_minimal_import_has_pages(
    client: httpx.AsyncClient,
    settings: Settings,
    engine: AsyncEngine,
    sessionmaker: async_sessionmaker[AsyncSession],
    tmp_path: Path,
) -> None:
    (tmp_path / "batch-0.json").write_text('{"features": [{"feature_index": 5}]}')
    await import_statistics(
        JobContext(settings, engine, sessionmaker), tmp_path / "batch-0.json", model="a/b", name="least"
    )
    await import_statistics(JobContext(settings, engine, sessionmaker), EXPORTS / "saedashboard")
    for address in ("/", "/saes/least", "/saes/least/features", "/saes/least/features/5", "/label", "/runs"):
        assert (await client.get(address)).status_code == 200, address
