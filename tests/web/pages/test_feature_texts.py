"""Examples drawn from the store, and the reader's own sentences, over a real model, SAE and inference service."""

from collections.abc import AsyncIterator

import httpx
import numpy as np
import pytest
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncEngine

from app.artifacts import Artifacts
from app.queries.saes import SaeDetail
from app.settings import Settings
from sae_core.evaluation.held_out import is_held_out
from tests.app.inference.dictionaries import CORPUS, Dictionary, activations, packed, publish
from tests.web.api.problems import problem
from tests.web.html import parse
from tests.web.pages.conftest import HTMX
from tests.web.site import SECRET, site

pytestmark = pytest.mark.read_only


@pytest.fixture(scope="module")
async def stored(module_engine: AsyncEngine, dictionary: Dictionary) -> SaeDetail:
    """The SAE of `dictionary`, with the activation store that examples are drawn from."""
    return await publish(module_engine, dictionary, with_store=True)


@pytest.fixture
async def client(dictionary: Dictionary, stored: SaeDetail, settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    secret = {"inference_secret": SecretStr(SECRET)}
    inference = dictionary.settings.model_copy(update=secret | {"database_url": settings.database_url})
    async with site(settings.model_copy(update=secret), inference=inference) as client:
        yield client


@pytest.fixture
def feature(dictionary: Dictionary) -> int:
    """One that fires often."""
    return int(sum((activations(dictionary, text) > 0).sum(dim=0) for text in CORPUS).argmax())


@pytest.fixture
def here(dictionary: Dictionary, feature: int) -> str:
    return f"/saes/{dictionary.row.slug}/features/{feature}"


async def test_examples_are_drawn_from_the_requested_range(
    client: httpx.AsyncClient, here: str, dictionary: Dictionary, feature: int
) -> None:
    drawable = ~is_held_out(packed(dictionary).sha256, np.arange(len(CORPUS)))
    assert not drawable.all()
    texts = [text for text, is_drawable in zip(CORPUS, drawable, strict=True) if is_drawable]
    values = [value for text in texts for value in activations(dictionary, text)[:, feature].tolist() if value > 0]
    low, high = sorted(values)[len(values) // 4], sorted(values)[len(values) // 2]
    address = f"{here}/drawn?from={low + 1e-4}&to={high + 1e-4}"
    page = parse((await client.get(address)).text)
    shown = [float(each.text) for each in page.all("span", cls="example-value")]
    assert shown
    assert all(low - 0.01 <= value <= high + 0.01 for value in shown)
    inside = sum(low + 1e-4 < value <= high + 1e-4 for value in values)
    assert f"drawn from {inside} activation" in " ".join(page.one("div", id="drawn").text.split())
    fragment = parse((await client.get(address, headers=HTMX)).text)
    assert [float(each.text) for each in fragment.all("span", cls="example-value")] == shown
    assert not fragment.all("h1")
    opened = await client.get(page.all("a", cls="example-line")[0]["href"])
    assert "Tiny, CC0-1.0" in opened.text  # its document's licence
    assert "text " in parse(opened.text).one("h1").text


@pytest.mark.parametrize(
    "query", ["from=3&to=1", "from=-1&to=1", "from=nan&to=1", "from=1&to=inf", "from=1&to=1e400", "from=1&to=2&seed=-1"]
)
async def test_an_invalid_range_is_explained(client: httpx.AsyncClient, here: str, query: str) -> None:
    response = await client.get(f"{here}/drawn?{query}")
    assert response.status_code == 422
    assert parse(response.text).one("div", cls="notice")


async def test_without_the_store_the_page_says_how_to_make_it_again(
    client: httpx.AsyncClient, here: str, dictionary: Dictionary
) -> None:
    assert (await client.get(f"{here}/drawn?from=0&to=1000")).status_code == 200
    stores = Artifacts(dictionary.settings.artifacts).root / "indexes"
    away = stores.rename(stores.with_name("away"))
    try:
        response = await client.get(f"{here}/drawn?from=0&to=1000")
    finally:
        away.rename(stores)
    assert response.status_code == 503
    assert f"seesae index {dictionary.row.slug} --corpus CORPUS" in response.text
    assert (await client.get(here)).status_code == 200


async def test_the_readers_lines_are_shaded_by_this_feature(
    client: httpx.AsyncClient, here: str, dictionary: Dictionary, feature: int
) -> None:
    texts = ["It was the best of times,", "<b>it</b> was the worst."]
    response = await client.post(f"{here}/try", data={"text": "\r\n\r\n".join(texts)}, headers=HTMX)
    assert response.status_code == 200
    fragment = parse(response.text)
    lines = fragment.one("ol", cls="tried").all("li")
    assert len(lines) == 2
    for line, text in zip(lines, texts, strict=True):
        peak = activations(dictionary, text)[:, feature].max().item()
        said = line.one("span", cls="tried-value").text
        assert ("silent" in said) == (peak == 0)
        if peak:
            assert float(said.split()[0]) == pytest.approx(peak, rel=0.01)
        assert text in line.one("p", cls="strip").text
    whole = await client.get(fragment.all("a")[-1]["href"])
    assert len(parse(whole.text).one("ol", cls="tried").all("li")) == 2
    assert "ETag" not in whole.headers or whole.headers["Cache-Control"] == "private, no-cache"
    posted = parse((await client.post(f"{here}/try", data={"text": texts[0]})).text)
    assert posted.one("textarea", id="try-text").text == texts[0]
    assert posted.all("h2", id="top") or posted.all("h2", id="try-title")


@pytest.mark.parametrize(
    ("text", "status"), [("", 422), ("\n \n", 422), ("a\n" * 11, 422), ("word " * 400, 413), ("a\x00b", 200)]
)
async def test_lines_that_cannot_be_tried_are_explained_beside_the_text(
    client: httpx.AsyncClient, here: str, text: str, status: int
) -> None:
    response = await client.post(f"{here}/try", data={"text": text})
    assert response.status_code == status
    assert bool(parse(response.text).one("div", id="tried").all("div", cls="notice")) == (status != 200)


async def test_only_the_embedded_page_may_be_framed_by_other_sites(client: httpx.AsyncClient, here: str) -> None:
    framed = await client.get(f"{here}?embed=1")
    assert "frame-ancestors *" in framed.headers["Content-Security-Policy"]
    page = parse(framed.text)
    assert not page.all("form")
    assert not page.all("script")
    assert not page.all("header")
    assert "frame-ancestors 'self'" in (await client.get(here)).headers["Content-Security-Policy"]


async def test_the_api_draws_examples(client: httpx.AsyncClient, here: str) -> None:
    address = f"/api/v1{here}/examples"
    drawn = (await client.get(f"{address}?min_activation=0&max_activation=1000&limit=4")).json()["examples"]
    assert 0 < len(drawn) <= 4
    assert all(example["document"]["topic"] == "Letters" for example in drawn)
    again = (await client.get(f"{address}?min_activation=0&max_activation=1000&limit=4&seed=1")).json()["examples"]
    assert again != drawn
    assert "lower first" in problem(await client.get(f"{address}?min_activation=2&max_activation=1"), 422)["detail"]
    assert "both" in problem(await client.get(f"{address}?min_activation=2"), 422)["detail"]
    for infinite in ("min_activation=0&max_activation=inf", "min_activation=0&max_activation=1e400"):
        assert "max_activation" in problem(await client.get(f"{address}?{infinite}"), 422)["detail"]
    assert "band" in problem(await client.get(f"{address}?min_activation=0&max_activation=1&band=1"), 422)["detail"]
