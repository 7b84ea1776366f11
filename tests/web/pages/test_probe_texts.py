"""The page for many texts over a real model, SAE and inference service."""

import csv
import io
import json

import httpx
import pytest

from app.services.probe_texts import MAX_TEXTS
from tests.app.inference.dictionaries import Dictionary, activations
from tests.web.html import parse
from tests.web.pages.conftest import HTMX

pytestmark = pytest.mark.read_only

TEXTS = ["It was the best of times", "<b>The</b> nurse said", "times " * 150]


@pytest.fixture
def url(dictionary: Dictionary) -> str:
    return f"/saes/{dictionary.row.slug}/probe/texts"


async def test_a_table_has_each_features_activation_on_each_text(
    probing: httpx.AsyncClient, url: str, dictionary: Dictionary
) -> None:
    response = await probing.post(url, data={"text": "\r\n".join(TEXTS)})
    assert response.status_code == 200
    page = parse(response.text)
    assert [button.text for button in page.all("button", cls="texts-text")] == [text[:200] for text in TEXTS]
    assert "at most 100" in page.one("table", cls="texts-table").text
    maxima = [activations(dictionary, text).max(dim=0).values for text in TEXTS[:2]]
    rows = page.one("table", cls="texts-features").one("tbody").all("tr")
    assert rows
    for row in rows:
        index = int(row.one("th").text)
        cells = [cell.text.strip() for cell in row.all("td", cls="cell")]
        assert [bool(cell) for cell in cells] == [maxima[0][index] > 0, maxima[1][index] > 0, False]
        for cell, expected in zip(cells, maxima, strict=False):
            assert not cell or float(cell) == pytest.approx(expected[index].item(), rel=0.01)


async def test_pages_of_texts_follow_each_other_and_downloads_have_all(probing: httpx.AsyncClient, url: str) -> None:
    texts = [f"text number {number}" for number in range(30)]
    sent = {"text": "\n".join(texts), "top": "3"}
    first = parse((await probing.post(url, data=sent)).text)
    following = first.one("div", cls="texts-buttons").all("button")[0]
    assert (following["name"], following["value"], following["form"]) == ("start", "25", "texts-form")
    second = parse((await probing.post(url, data=sent | {"start": "25"})).text)
    assert [button.text for button in second.all("button", cls="texts-text")] == texts[25:]
    assert second.one("div", cls="texts-buttons").all("button")[0]["value"] == "0"

    table = await probing.post(f"{url}/csv", data=sent)
    assert table.headers["content-disposition"].endswith('-probe.csv"')
    rows = list(csv.DictReader(io.StringIO(table.text)))
    assert [int(row["prompt"]) for row in rows] == [number for number in range(30) for _ in range(3)]
    lines = [json.loads(line) for line in (await probing.post(f"{url}/jsonl", data=sent)).text.splitlines()]
    assert [feature["index"] for line in lines for feature in line["features"]] == [int(row["feature"]) for row in rows]


@pytest.mark.parametrize(
    ("name", "content", "shown"),
    [
        ("a.txt", "one\n\ntwo\n", ["one", "two"]),
        ("a.jsonl", '"two\\nlines"\n{"text": "é"}', ["two\nlines", "é"]),
        ("a.csv", 'id,text\n1,"x, y"\n', ["x, y"]),
    ],
)
async def test_a_file_replaces_the_field_and_fills_it(
    probing: httpx.AsyncClient, url: str, name: str, content: str, shown: list[str]
) -> None:
    page = parse((await probing.post(url, data={"text": "other"}, files={"file": (name, content.encode())})).text)
    assert [button.text for button in page.all("button", cls="texts-text")] == shown
    assert page.one("textarea", id="text").text.removeprefix("\n") == content  # the next page sends it again
    chosen = [
        option["value"] for option in page.one("select", id="kind").all("option") if "selected" in option.attributes
    ]
    assert chosen == [name.rpartition(".")[2]]


@pytest.mark.parametrize("headers", [{}, HTMX], ids=["page", "htmx"])
@pytest.mark.parametrize(
    ("fields", "status", "says"),
    [
        ({"text": ""}, 422, "There are no texts"),
        ({"text": "x\n" * (MAX_TEXTS + 1)}, 413, "more than 1,000 texts"),
        ({"text": "x" * 900_001}, 413, "900 kB"),
        ({"text": "{", "kind": "jsonl"}, 422, "Line 1 of The text"),
        ({"text": '"\\ud800"', "kind": "jsonl"}, 422, "half of a surrogate pair"),
        ({"text": "prompt\nx", "kind": "csv"}, 422, "no column “text”"),
    ],
)
async def test_what_cannot_be_probed_is_explained(
    probing: httpx.AsyncClient, url: str, headers: dict[str, str], fields: dict[str, str], status: int, says: str
) -> None:
    response = await probing.post(url, data=fields, headers=headers)
    assert response.status_code == status
    assert says in parse(response.text).one("div", cls="error").text
    refused = await probing.post(f"{url}/csv", data=fields, headers={"Accept": "text/html"})
    assert refused.status_code == status


async def test_a_file_that_is_not_text_is_explained(probing: httpx.AsyncClient, url: str) -> None:
    response = await probing.post(url, files={"file": ("a.txt", b"\xff\xfe")})
    assert response.status_code == 422
    assert "a.txt is not UTF-8" in response.text


@pytest.mark.own_database
async def test_without_inference_the_page_says_so(client: httpx.AsyncClient, base: str) -> None:
    for path in ("", "/csv"):
        response = await client.post(f"{base}/probe/texts{path}", data={"text": "x"})
        assert response.status_code == 503
        assert "inference process" in response.text
