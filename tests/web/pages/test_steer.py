"""The steering page over a real model, an SAE and the inference service."""

import re

import httpx
import pytest
import torch

from tests.app.inference.dictionaries import HOOK, Dictionary
from tests.web.html import Element, parse
from tests.web.pages.conftest import HTMX

pytestmark = pytest.mark.read_only

TEXT = "It was the best of <b>times</b>, it was the"


@pytest.fixture
def url(dictionary: Dictionary) -> str:
    return f"/saes/{dictionary.row.slug}/steer"


@pytest.fixture
def feature(dictionary: Dictionary) -> int:
    x = dictionary.model.activations(torch.tensor([dictionary.model.tokenize(TEXT)]), HOOK)[0, 1:]
    return int(dictionary.sae.encode(x).max(dim=0).values.argmax())


async def post(client: httpx.AsyncClient, url: str, **data: str | int | float) -> Element:
    response = await client.post(url, data={"text": TEXT, "tokens": 8, **data})
    assert response.status_code == 200, response.text
    return parse(response.text)


def sides(page: Element) -> list[str]:
    return [text.text for text in page.all("p", cls="steer-text")][:2]


async def test_an_address_fills_the_form_in(probing: httpx.AsyncClient, url: str, feature: int) -> None:
    given = {"text": TEXT, "feature": feature, "op": "scale", "value": "-2.5", "seed": 4}
    response = await probing.get(url, params=given)
    assert response.status_code == 200, response.text
    page = parse(response.text)
    assert page.one("textarea").text.removeprefix("\n") == TEXT
    assert page.one("input", id="feature")["value"] == str(feature)
    assert page.one("input", id="value")["value"] == "-2.5"
    assert page.one("input", name="op", value="scale").attributes.keys() >= {"checked"}
    assert not page.all("div", cls="steer-result")
    marks = page.one("p", cls="steer-marks")
    assert [re.sub(r"\s+[\d.,]+$", "", mark.text.strip()) for mark in marks.all("a", cls="text-button")] == [
        "median",
        "99 %",
        "maximum",
        "2 × maximum",
        "5 × maximum",
        "10 × maximum",
    ]


async def test_both_texts_and_what_moved_are_shown(probing: httpx.AsyncClient, url: str, feature: int) -> None:
    page = await post(probing, url, feature=feature, op="clamp", value=40)
    default, changed = sides(page)
    assert default
    assert default != changed
    said = page.one("p", cls="steer-said").text
    assert "set to 40" in said
    assert "on every token but BOS" in said
    rows = page.one("table", cls="steer-table").one("tbody").all("tr")
    assert 1 <= len(rows) <= 6
    assert "→" in rows[0].text
    assert any(page.all("span", cls=f"a{step}") for step in range(1, 7)), "shaded by how much the prediction changed"
    link = next(button["href"] for button in page.all("a") if "Link to these" in button.text)
    again = parse((await probing.get(link)).text)
    assert again.one("input", id="value")["value"] == "40"
    assert "<b>times</b>" in again.one("textarea").text


async def test_controls_do_the_same_to_something_random(probing: httpx.AsyncClient, url: str, feature: int) -> None:
    own = await post(probing, url, feature=feature, op="clamp", value=40)
    along = await post(probing, url, feature=feature, op="clamp", value=40, control="direction")
    assert "Control: along a random direction" in along.one("p", cls="steer-said").text.replace("\n", " ")
    assert sides(along)[0] == sides(own)[0]
    other = await post(probing, url, feature=feature, op="clamp", value=40, control="feature")
    assert "Control: a random feature" in other.one("p", cls="steer-said").text
    (link,) = other.one("p", cls="steer-said").all("a")
    assert not link["href"].endswith(f"/features/{feature}")


async def test_a_page_that_reads_a_stream_gets_tokens_and_then_the_result(
    probing: httpx.AsyncClient, url: str, feature: int
) -> None:
    data = {"text": TEXT, "tokens": 8, "feature": feature, "op": "ablate"}
    whole = await post(probing, url, feature=feature, op="ablate")
    response = await probing.post(url, data=data, headers={**HTMX, "Accept": "text/event-stream"})
    assert response.headers["content-type"].startswith("text/event-stream")
    events = [block.split("\n") for block in response.text.strip().split("\n\n")]
    names = [block[0].removeprefix("event: ") for block in events]
    assert names.count("default") == names.count("changed") == 8
    assert names[-1] == "done"
    html = "\n".join(line.removeprefix("data: ") for line in events[-1][1:])
    assert sides(parse(html)) == sides(whole)
    tokens = [
        parse("\n".join(line.removeprefix("data: ") for line in block[1:])).text
        for block in events
        if block[0] == "event: default"
    ]
    assert "".join(tokens) == sides(whole)[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"text": ""}, "The text is empty"),
        ({"feature": ""}, "Choose a feature"),
        ({"feature": "99999"}, "no feature 99999"),
        ({"text": "times " * 400}, "at most"),
        ({"tokens": "400"}, "reads at most 256 tokens"),
    ],
)
@pytest.mark.parametrize("accept", ["text/html", "text/event-stream"])
async def test_mistakes_are_said_in_the_place_of_the_result(
    probing: httpx.AsyncClient, url: str, changes: dict[str, str], words: str, accept: str
) -> None:
    data = {"text": TEXT, "feature": "1", "tokens": "5", **changes}
    response = await probing.post(url, data=data, headers={**HTMX, "Accept": accept})
    assert response.status_code in (413, 422)
    assert words in parse(response.text).one("div", role="alert").text


async def test_the_snippet_runs_with_sae_core_alone(
    probing: httpx.AsyncClient,
    url: str,
    feature: int,
    dictionary: Dictionary,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = await post(probing, url, feature=feature, op="clamp", value=40)
    code = page.one("pre", cls="code").text
    monkeypatch.chdir(dictionary.settings.artifacts)
    exec(compile(code, "snippet", "exec"), {})
    written = eval(capsys.readouterr().out)
    assert [written["default"], written["changed"]] == sides(page)


async def test_a_features_page_leads_here(probing: httpx.AsyncClient, dictionary: Dictionary, feature: int) -> None:
    page = parse((await probing.get(f"/saes/{dictionary.row.slug}/features/{feature}")).text)
    form = page.one("form", action=f"/saes/{dictionary.row.slug}/steer")
    assert form.one("input", name="feature")["value"] == str(feature)
