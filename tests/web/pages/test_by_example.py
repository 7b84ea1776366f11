"""The page of features by example, over a real model, SAE and inference service."""

from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.app.inference.dictionaries import SLUG, Dictionary
from tests.factories import make_sae
from tests.tiny import BOS
from tests.web.html import Element, parse
from tests.web.pages.conftest import HTMX
from tests.web.site import production_logging

pytestmark = pytest.mark.read_only

TEXT = '\nIt was the best of <script>alert("times")</script>,\nمرحبا é.'
URL = f"/saes/{SLUG}/features/by-example"
ANY = {"text": TEXT, "max_density": ""}


def written(page: Element) -> str:
    return page.one("textarea").text.removeprefix("\n")


def numbers(page: Element) -> list[int]:
    return [int(row.one("span", cls="feature-number").text) for row in page.all("a", cls="feature-row")]


def chosen(page: Element) -> list[int]:
    return [int(box["value"]) for box in page.all("input", name="token") if "checked" in box.attributes]


async def test_the_page_lists_what_the_api_finds(probing: httpx.AsyncClient) -> None:
    sent = {**ANY, "text": TEXT.replace("\n", "\r\n"), "token": ["3", "5"]}
    response = await probing.post(URL, data=sent)
    assert response.status_code == 200
    page = parse(response.text)
    found = await probing.post(f"/api/v1{URL}", json={"text": TEXT, "tokens": [3, 5], "max_density": None})
    features = found.json()["features"]
    assert numbers(page) == [feature["index"] for feature in features]
    percentiles = [row.one("span", cls="found-percentile").text for row in page.all("a", cls="feature-row")]
    assert [float(text.removesuffix(" percentile")) for text in percentiles] == [
        pytest.approx(feature["percentile"], abs=0.1) for feature in features
    ]
    assert written(page) == TEXT
    assert chosen(page) == [3, 5]
    assert "2 of" in page.one("section", aria_labelledby="example-tokens").text


async def test_every_token_but_special_ones_can_be_chosen(probing: httpx.AsyncClient, dictionary: Dictionary) -> None:
    page = parse((await probing.post(URL, data=ANY)).text)
    strip = page.one("p", cls="strip")
    boxes = strip.all("input", type="checkbox")
    assert [int(box["value"]) for box in boxes] == [*range(1, len(dictionary.model.tokenize(TEXT)))]
    assert all(box["form"] == page.one("form", cls="probe-form")["id"] for box in boxes)
    assert "<script>alert" in strip.text.removeprefix(BOS)
    assert strip.all("span", cls="chip")[0].text == BOS
    assert not chosen(page)
    assert "none chosen, so all" in page.text


async def test_tokens_chosen_in_another_text_are_forgotten(probing: httpx.AsyncClient) -> None:
    page = parse((await probing.post(URL, data={**ANY, "token": "3"})).text)
    mark = page.one("input", name="chosen_in")["value"]
    same = await probing.post(URL, data={**ANY, "token": "3", "chosen_in": mark})
    assert chosen(parse(same.text)) == [3]
    other = await probing.post(URL, data={**ANY, "text": "Other words", "token": "3", "chosen_in": mark})
    assert chosen(parse(other.text)) == []
    none = await probing.post(URL, data={**ANY, "token": "3", "chosen_in": mark, "none": "1"})
    assert chosen(parse(none.text)) == []


async def test_the_text_is_in_the_address_only_if_chosen(probing: httpx.AsyncClient) -> None:
    result = await probing.post(URL, data={**ANY, "token": "3"}, headers=HTMX)
    assert "<form" not in result.text
    assert result.headers["HX-Replace-Url"] == URL

    kept = await probing.post(URL, data={**ANY, "token": "3", "in_address": "1"})
    assert kept.status_code == 303
    address = kept.headers["location"]
    assert dict(parse_qsl(urlsplit(address).query, keep_blank_values=True)) == {
        "run": "1",
        "text": TEXT,
        "token": "3",
        "max_density": "",
    }
    page = parse((await probing.get(address)).text)
    assert numbers(page) == numbers(parse(result.text))
    assert chosen(page) == [3]
    assert "checked" in page.one("input", name="in_address").attributes
    fragment = await probing.get(address, headers=HTMX)
    assert fragment.headers["HX-Replace-Url"] == address


@pytest.mark.own_database
async def test_a_link_fills_the_form_and_runs_nothing_unless_it_says_so(client: httpx.AsyncClient, base: str) -> None:
    url = f"{base}/features/by-example"
    response = await client.get(url, params={"text": TEXT})  # inference is down here, and is not asked
    page = parse(response.text)
    assert response.status_code == 200
    assert written(page) == TEXT
    assert page.one("select", id="max_density").one("option", selected=None)["value"] == "0.01"
    response = await client.get(url, params={"text": TEXT, "run": "1"})
    assert response.status_code == 503
    page = parse(response.text)
    assert "inference process" in page.one("div", cls="error", role="alert").text
    assert written(page) == TEXT
    assert page.one("div", cls="error").one("a")["href"] == f"{base}/features"


async def test_an_empty_density_range_says_what_to_change(probing: httpx.AsyncClient) -> None:
    page = parse((await probing.post(URL, data={"text": TEXT, "max_density": "0"})).text)
    assert "widen the range" in page.one("div", cls="empty").text


@pytest.mark.parametrize("headers", [{}, HTMX], ids=["page", "htmx"])
@pytest.mark.parametrize(
    ("changed", "status", "said"),
    [
        ({"text": ""}, 422, "empty"),
        ({"text": "word " * 200}, 413, "100"),
        ({"text": "x" * 5_000, "in_address": "1"}, 422, "at most 4,000 characters"),
        ({"token": "0"}, 422, "special"),
        ({"token": "999"}, 422, "outside the text"),
        ({"token": "9" * 5_000}, 422, "whole number"),
        ({"token": "one"}, 422, "whole number"),
        ({"min_density": "0.1", "max_density": "0.01"}, 422, "swap the two"),
        ({"min_density": "much"}, 422, "a share of tokens"),
        ({"max_density": "nan", "in_address": "1"}, 422, "a share of tokens"),
    ],
)
async def test_errors_are_explained_in_place_and_the_text_stays(
    probing: httpx.AsyncClient, headers: dict[str, str], changed: dict[str, str], status: int, said: str
) -> None:
    response = await probing.post(URL, data=ANY | changed, headers=headers)
    assert response.status_code == status
    page = parse(response.text)
    assert said in page.one("div", cls="error", role="alert").text
    if not headers:
        assert written(page) == changed.get("text", TEXT)


@pytest.mark.own_database
async def test_without_an_index_it_says_how_to_make_one(client: httpx.AsyncClient, engine: AsyncEngine) -> None:
    await make_sae(engine, slug="bare", publish=False)
    for response in (
        await client.get("/saes/bare/features/by-example"),
        await client.post("/saes/bare/features/by-example", data={"text": TEXT}),
    ):
        assert "seesae index bare" in parse(response.text).one("code", cls="command").text


async def test_the_text_is_neither_logged_nor_stored(
    probing: httpx.AsyncClient, capfd: pytest.CaptureFixture[str], engine: AsyncEngine
) -> None:
    with production_logging():  # again, to this test's standard error
        await probing.post(URL, data={"text": "xyzzy plugh"})
        await probing.get(URL, params={"text": "xyzzy plugh", "run": "1"})
    output = "".join(capfd.readouterr())
    assert output.count('"event": "probe"') == 2
    assert "xyzzy" not in output
    async with engine.connect() as connection:
        tables = await connection.exec_driver_sql(
            "SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        )
        for (table,) in tables.all():
            found = await connection.exec_driver_sql(
                f"SELECT count(*) FROM {table} AS t WHERE t::text LIKE '%%xyzzy%%'"
            )
            assert found.scalar() == 0, table
