"""The steering page over a real model, an SAE and the inference service."""

import json
import re
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
import pytest
import torch
from safetensors.torch import save
from sqlalchemy.ext.asyncio import AsyncEngine

from app.queries.saes import NO_WEIGHTS, SaeDetail
from app.settings import Settings
from tests.app.inference.dictionaries import (
    EARLY_SLUG,
    HOOK,
    Dictionary,
    add_early_sae,
    link_files,
    make_dictionary,
    publish,
)
from tests.core.test_chat import CHATML
from tests.tiny import BOS, EOS, tiny_tokenizer
from tests.web.html import Element, parse
from tests.web.pages.conftest import HTMX
from tests.web.probing import probing_site

pytestmark = pytest.mark.read_only

FORM = {"Content-Type": "application/x-www-form-urlencoded"}
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


def rows_of(page: Element) -> Element:
    return page.one("div", cls="steer-rows")


def chosen(select: Element) -> str:
    options = select.all("option")
    return next((option["value"] for option in options if "selected" in option.attributes), options[0]["value"])


async def test_an_address_fills_the_form_in(probing: httpx.AsyncClient, url: str, feature: int) -> None:
    given = {"text": TEXT, "feature": feature, "op": "scale", "value": "-2.5", "seed": 4}
    response = await probing.get(url, params=given)
    assert response.status_code == 200, response.text
    page = parse(response.text)
    assert page.one("textarea", id="text").text.removeprefix("\n") == TEXT
    assert page.one("input", id="feature")["value"] == str(feature)
    assert page.one("input", id="value")["value"] == "-2.5"
    assert chosen(rows_of(page).one("select", name="op")) == "scale"
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
    assert "<b>times</b>" in again.one("textarea", id="text").text


async def test_a_control_stands_beside_the_feature(probing: httpx.AsyncClient, url: str, feature: int) -> None:
    data = {"feature": feature, "op": "clamp", "value": 40, "seed": 7}
    own = await post(probing, url, **data)
    texts = {"positive": "best of times", "negative": "worst of times"}
    said = {
        "direction": "With seed 7: a random direction of the length of",
        "feature": "seed 7: feature",
        "texts": "40.0 × DiffMean of the two lists added",
    }
    for kind, words in said.items():
        page = await post(probing, url, **data, **texts, control=kind)
        assert sides(page) == sides(own)
        default, changed, control = [text.text for text in page.all("p", cls="steer-text")]
        assert control not in (default, changed)
        third = page.one("section", cls="steer-sides").all("div")[2]
        assert words in " ".join(third.text.split())
        assert "Control: by" in page.one("p", cls="steer-said").text


async def test_several_features_and_a_direction_act_together(
    probing: httpx.AsyncClient, url: str, feature: int
) -> None:
    body = [
        ("text", TEXT),
        ("tokens", "8"),
        ("direction", "feature"),
        ("direction_feature", "3"),
        ("direction_value", "9"),
    ]
    for number, op, value in ((feature, "clamp", "40"), (5, "add", "3"), ("", "clamp", "")):
        body += [("sae", ""), ("feature", str(number)), ("op", op), ("value", value)]
    response = await probing.post(url, content=urlencode(body), headers=FORM)
    page = parse(response.text)
    said = " ".join(page.one("p", cls="steer-said").text.split())
    assert (
        f"feature {feature} set to 40.0, 3.00 × feature 5 added and 9.00 × the decoder row of feature 3 added" in said
    )
    link = next(button["href"] for button in page.all("a") if "Link to these" in button.text)
    again = parse((await probing.get(link)).text)
    assert [row["value"] for row in rows_of(again).all("input", name="feature")] == [str(feature), "5", ""]
    assert [chosen(row) for row in rows_of(again).all("select", name="op")] == ["clamp", "add", "clamp"]
    assert chosen(again.one("select", name="direction")) == "feature"


async def test_rows_are_added_and_removed_without_scripts(probing: httpx.AsyncClient, url: str, feature: int) -> None:
    page = parse((await probing.post(url, data={"text": TEXT, "feature": feature, "value": 3, "add_row": 1})).text)
    assert [row["value"] for row in rows_of(page).all("input", name="feature")] == [str(feature), ""]
    assert page.one("textarea", id="text").text.removeprefix("\n") == TEXT
    assert not page.all("div", cls="steer-result")
    body = [("text", TEXT), ("feature", "1"), ("feature", "2"), ("remove_row", "1")]
    page = parse((await probing.post(url, content=urlencode(body), headers=FORM)).text)
    assert [row["value"] for row in rows_of(page).all("input", name="feature")] == ["1"]


async def test_tokens_of_the_prompt_are_chosen_by_clicking(probing: httpx.AsyncClient, url: str, feature: int) -> None:
    data = {"feature": feature, "op": "add", "value": 40}
    page = await post(probing, url, **data, toggle=3)
    assert "on token 3" in page.one("p", cls="steer-said").text
    assert page.one("input", id="at")["value"] == "3"
    buttons = page.one("p", cls="steer-prompt").all("button")
    assert [button["value"] for button in buttons if button["aria-pressed"] == "true"] == ["3"]
    assert "0" not in {button["value"] for button in buttons}, "BOS is left alone"
    page = await post(probing, url, **data, positions="tokens", at="2, 5-6", toggle=7)
    assert page.one("input", id="at")["value"] == "2, 5-7"
    assert "on tokens 2, 5-7" in page.one("p", cls="steer-said").text
    page = await post(probing, url, **data, positions="tokens", at="3", toggle=3)
    assert "on every token but BOS" in page.one("p", cls="steer-said").text


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
async def test_an_uploaded_vector_is_a_direction(probing: httpx.AsyncClient, url: str, dtype: torch.dtype) -> None:
    vector = torch.linspace(-1, 1, 32).to(dtype)
    files = {"vector_file": ("mine.safetensors", save({"v": vector}))}
    data = {"text": TEXT, "tokens": "5", "direction": "vector", "direction_value": "20"}
    page = parse((await probing.post(url, data=data, files=files)).text)
    assert "20.0 × the uploaded direction added" in page.one("p", cls="steer-said").text
    packed = page.one("input", name="vector")["value"]
    again = parse((await probing.post(url, data={**data, "vector": packed})).text)
    assert sides(again) == sides(page), "the vector comes back with the form, for browsers without scripts"


NOT_FINITE = torch.tensor([0.0] * 31 + [float("nan")])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (save({"v": NOT_FINITE}), "number 31 is nan"),
        (save({"v": torch.zeros(32)}), "zero everywhere"),
        (save({"v": torch.ones(7)}), "The direction has 7 dimensions, and the model 32 there"),
        (save({"v": torch.ones(4, 8)}), "one row of numbers"),
        (save({"v": torch.ones(3), "w": torch.ones(3)}), "2 tensors"),
        (save({"v": torch.ones(32, dtype=torch.int64)}), "I64"),
        (save({"v": torch.ones(32)})[:-3], "cut off"),
        (b"GIF89a", "not a safetensors file"),
        (b"\xff" * 40, "not a safetensors file"),
    ],
)
async def test_files_without_a_direction_are_refused_with_one_sentence(
    probing: httpx.AsyncClient, url: str, content: bytes, words: str
) -> None:
    data = {"text": TEXT, "tokens": "5", "direction": "vector", "direction_value": "20"}
    response = await probing.post(url, data=data, files={"vector_file": ("v.safetensors", content)}, headers=HTMX)
    assert response.status_code == 422
    assert words in parse(response.text).one("div", role="alert").text


async def test_a_sweep_draws_measures_and_lists_texts(probing: httpx.AsyncClient, url: str, feature: int) -> None:
    data = {"feature": feature, "run": "sweep", "strengths": "0 5, 400", "sweep_control": "direction", "seed": 2}
    page = await post(probing, url, **data)
    titles = [figure.one("b").text for figure in page.all("figure", cls="chart")]
    assert titles == ["Change", "Loss", "Repetition"]
    rows = page.one("table", cls="sweep-table").one("tbody").all("tr")
    assert [row.one("th").text.strip() for row in rows] == [
        "none",
        "0",
        "control",
        "5.00",
        "control",
        "400",
        "control",
    ]
    said = " ".join(page.one("p", cls="steer-said").text.split())
    assert "Control, with seed 2: a random direction" in said
    assert re.search(r"set to 3 strengths. The text (collapses at strength (0|5\.00|400)\.|does not collapse)", said)
    link = next(button["href"] for button in page.all("a") if "Link to these" in button.text)
    again = parse((await probing.get(link)).text)
    assert again.one("input", id="strengths")["value"] == "0 5, 400"
    response = await probing.post(
        url, data={"text": TEXT, "tokens": 8, **data}, headers={**HTMX, "Accept": "text/event-stream"}
    )
    names = re.findall(r"^event: (\w+)$", response.text, re.MULTILINE)
    assert names == ["start", *["row"] * 6, "done"]


async def test_a_sweep_starts_from_the_features_own_range(
    probing: httpx.AsyncClient, url: str, feature: int, dictionary: Dictionary
) -> None:
    page = await post(probing, url, feature=feature, run="sweep", sweep_control="")
    maximum = float(page.one("p", cls="steer-marks")["data-maximum"])
    shown = [row.one("th").text.strip() for row in page.one("table", cls="sweep-table").one("tbody").all("tr")][1:]
    assert [float(value.replace(",", "")) for value in shown] == pytest.approx(
        [factor * maximum for factor in (0.25, 0.5, 0.75, 1, 1.25, 1.5, 2, 3)], rel=0.01
    )


async def test_strengths_of_another_feature_are_given_alone(probing: httpx.AsyncClient, url: str, feature: int) -> None:
    page = parse((await probing.get(f"{url}/marks", params={"feature": feature}, headers=HTMX)).text)
    assert len(page.one("p", cls="steer-marks").all("a", cls="text-button")) == 6
    unknown = await probing.get(f"{url}/marks", params={"feature": 10**6}, headers=HTMX)
    assert "not known" in unknown.text
    assert (await probing.get(f"{url}/marks", params={"feature": "x"}, headers=HTMX)).status_code == 422


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
    assert names[0] == "start"
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
        ({"tokens": "0"}, "between 1 and 512"),
        ({"tokens": "1000000"}, "between 1 and 512"),
        ({"tokens": "2.5"}, "whole number"),
        ({"value": "NaN"}, "between"),
        ({"value": "inf"}, "between"),
        ({"value": "1e30"}, "between"),
        ({"value": "much"}, "is a number"),
        ({"op": "boost"}, "not an intervention"),
        ({"positions": "tokens"}, "No tokens are chosen"),
        ({"positions": "tokens", "at": "5-2"}, "no range"),
        ({"positions": "tokens", "at": "one"}, "no positions"),
        ({"positions": "tokens", "at": "999"}, "no token 999"),
        ({"temperature": "-1"}, "temperature"),
        ({"seed": "-1"}, "seed"),
        ({"direction": "texts", "direction_value": "1", "positive": "a"}, "both lists"),
        ({"direction": "vector", "direction_value": "1"}, "Choose the safetensors file"),
        ({"direction": "vector", "direction_value": "1", "vector": "!"}, "damaged"),
        ({"direction": "feature", "direction_feature": "3"}, "strength"),
        ({"control": "weather"}, "no such button"),
        ({"control": "texts"}, "both lists"),
        ({"op": "ablate", "control": "texts", "positive": "a", "negative": "b"}, "Set to"),
        ({"run": "sweep", "strengths": "1 x"}, "is a number"),
        ({"run": "sweep", "strengths": " ".join(map(str, range(26)))}, "at most 25"),
        ({"run": "sweep", "op": "ablate"}, "no strength"),
        ({"sae": "nowhere"}, "nowhere"),
        ({"mode": "chat", "role": "user", "content": "Hello"}, "no chat template"),
        ({"mode": "chat"}, "no turns"),
    ],
)
@pytest.mark.parametrize("accept", ["text/html", "text/event-stream"])
async def test_mistakes_are_said_in_the_place_of_the_result(
    probing: httpx.AsyncClient, url: str, changes: dict[str, str], words: str, accept: str
) -> None:
    data = {"text": TEXT, "feature": "1", "tokens": "5", **changes}
    response = await probing.post(url, data=data, headers={**HTMX, "Accept": accept})
    assert response.status_code in (404, 413, 422)
    assert words in parse(response.text).one("div", role="alert").text


SNIPPETS: list[dict[str, str]] = [
    {"op": "clamp", "value": "40"},
    {
        "op": "scale",
        "value": "-3",
        "positions": "tokens",
        "at": "2, 4-6",
        "temperature": "0.8",
        "seed": "3",
        "stop": "q",
    },
    {
        "op": "ablate",
        "direction": "texts",
        "direction_value": "25",
        "positive": "best of times\nbest",
        "negative": "worst",
    },
    {"op": "add", "value": "9", "direction": "feature", "direction_feature": "3", "direction_value": "9"},
]


@pytest.mark.parametrize("form", SNIPPETS)
async def test_the_snippet_runs_with_sae_core_alone(
    probing: httpx.AsyncClient,
    url: str,
    feature: int,
    form: dict[str, str],
    dictionary: Dictionary,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = await post(probing, url, feature=feature, **form)
    monkeypatch.chdir(link_files(dictionary, tmp_path))
    assert run(page, capsys) == sides(page)


def run(page: Element, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return both texts that the page's Python code prints."""
    exec(compile(page.one("pre", cls="code").text, "snippet", "exec"), {})
    written = eval(capsys.readouterr().out)
    return [written["default"], written["changed"]]


@pytest.mark.own_database
async def test_features_of_two_saes_act_together(
    probing: httpx.AsyncClient,
    url: str,
    published: SaeDetail,
    engine: AsyncEngine,
    dictionary: Dictionary,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    await add_early_sae(engine, dictionary, published.model.id)
    body = [("text", TEXT), ("tokens", "8")]
    for slug, number in (("", "3"), (EARLY_SLUG, "7")):
        body += [("sae", slug), ("feature", number), ("op", "add"), ("value", "30")]
    page = parse((await probing.post(url, content=urlencode(body), headers=FORM)).text)
    said = " ".join(page.one("p", cls="steer-said").text.split())
    assert f"30.0 × feature 3 added and 30.0 × feature 7 of {EARLY_SLUG} added" in said
    assert [chosen(row) for row in rows_of(page).all("select", name="sae")] == ["", EARLY_SLUG]
    monkeypatch.chdir(link_files(dictionary, tmp_path))
    assert run(page, capsys) == sides(page)


@pytest.mark.own_database
async def test_a_conversation_is_continued_in_the_models_own_format(
    engine: AsyncEngine,
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHATML
    made = make_dictionary(tmp_path / "chat", tokenizer)
    sae = await publish(engine, made)
    turns = [("role", "system"), ("content", ""), ("role", "user"), ("content", "Hello <b>there</b>")]
    body = [("mode", "chat"), *turns, ("tokens", "8"), ("feature", "3"), ("op", "add"), ("value", "30")]
    address = f"/saes/{sae.slug}/steer"
    async with probing_site(made, settings) as client:
        page = parse((await client.post(address, content=urlencode(body), headers=FORM)).text)
        more = parse((await client.post(address, content=urlencode([*body, ("add_turn", "1")]), headers=FORM)).text)
        interventions = [{"feature": 3, "op": "add", "value": 30}]
        chat = [{"role": "user", "content": "Hello <b>there</b>"}]
        asked = {"chat": chat, "interventions": interventions, "max_new_tokens": 8}
        answer = (await client.post(f"/api/v1/saes/{sae.slug}/generate", json=asked)).json()
    assert [answer["default"]["text"], answer["changed"]["text"]] == sides(page)
    assert {token["role"] for token in answer["prompt"]} == {"user", "assistant"}
    assert "".join(token["text"] for token in answer["prompt"]) == (
        f"{BOS}user\nHello <b>there</b>{EOS}\n{BOS}assistant\n"
    )
    assert [role.text for role in page.one("p", cls="steer-prompt").all("span", cls="turn-role")] == [
        "user",
        "assistant",
    ]
    assert [turn.text.removeprefix("\n") for turn in more.all("textarea", name="content")] == [
        "",
        "Hello <b>there</b>",
        "",
    ]
    link = next(button["href"] for button in page.all("a") if "Link to these" in button.text)
    assert parse_qs(urlsplit(link).query, keep_blank_values=True)["content"] == ["", "Hello <b>there</b>"]
    monkeypatch.chdir(link_files(made, tmp_path))
    assert run(page, capsys) == sides(page)


async def test_a_transcoder_says_what_changing_it_means(
    probing: httpx.AsyncClient, url: str, monkeypatch: pytest.MonkeyPatch, dictionary: Dictionary
) -> None:
    found = replace(dictionary.row, hook="mlp_in.1", hook_out="mlp_out.1", d_sae=64)

    async def find(*_arguments: object) -> SaeDetail:
        return found

    monkeypatch.setattr("app.web.dependencies.find_sae", find)
    page = (await probing.get(url)).text
    assert "it reads activations at <code>mlp_in.1</code>" in page
    assert "added at <code>mlp_out.1</code>" in page


async def test_an_sae_without_weights_is_refused_with_what_to_do(
    probing: httpx.AsyncClient, url: str, monkeypatch: pytest.MonkeyPatch, dictionary: Dictionary
) -> None:
    async def find(*_arguments: object) -> SaeDetail:
        return replace(dictionary.row, weights_sha256=f"{NO_WEIGHTS}1")

    monkeypatch.setattr("app.web.dependencies.find_sae", find)
    data = {"text": TEXT, "feature": "1"}
    api = url.replace("/saes", "/api/v1/saes").removesuffix("/steer")
    body = {"text": TEXT, "interventions": [{"feature": 1, "op": "clamp"}]}
    answers = [
        await probing.get(url),
        await probing.post(url, data=data),
        await probing.post(url, data={**data, "run": "sweep", "strengths": "1"}),
        await probing.post(f"{api}/generate", json=body),
        await probing.post(f"{api}/sweep", json=body | {"strengths": [1]}),
    ]
    assert [answer.status_code for answer in answers] == [409] * 5
    assert all("it has no weights" in answer.text for answer in answers)


async def test_a_result_can_be_saved_as_an_edit(probing: httpx.AsyncClient, url: str, feature: int) -> None:
    page = await post(probing, url, feature=feature, op="clamp", value=40, positions="tokens", at="2, 5")
    form = page.one("form", action="/edits")
    (change,) = json.loads(form.one("input", name="interventions")["value"])
    assert (change["feature"], change["value"], change["positions"]) == (feature, 40.0, {"tokens": [2, 5]})
    texts = [form.one("textarea", name=name).text.removeprefix("\n") for name in ("prompt", "before", "after")]
    assert texts == [TEXT, *sides(page)]


async def test_a_features_page_leads_here(probing: httpx.AsyncClient, dictionary: Dictionary, feature: int) -> None:
    page = parse((await probing.get(f"/saes/{dictionary.row.slug}/features/{feature}")).text)
    form = page.one("form", action=f"/saes/{dictionary.row.slug}/steer")
    assert form.one("input", name="feature")["value"] == str(feature)
