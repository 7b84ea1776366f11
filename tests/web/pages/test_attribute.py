"""The attribution page over a real model, two SAEs and the inference service."""

import httpx
import pytest
import torch
from sqlalchemy.ext.asyncio import AsyncEngine

from app.queries.saes import SaeDetail
from tests.app.inference.dictionaries import EARLY_SLUG, Dictionary, add_early_sae
from tests.tiny import BOS
from tests.web.html import Element, parse
from tests.web.pages.conftest import HTMX

pytestmark = pytest.mark.read_only

TEXT = "It was the best of <b>times</b>, it was the"


@pytest.fixture(scope="module", autouse=True)
async def early(module_engine: AsyncEngine, dictionary: Dictionary, module_published: SaeDetail) -> SaeDetail:
    return await add_early_sae(module_engine, dictionary, module_published.model.id)


@pytest.fixture
def url(dictionary: Dictionary) -> str:
    return f"/saes/{dictionary.row.slug}/attribute"


async def post(client: httpx.AsyncClient, url: str, **data: str | list[str]) -> Element:
    response = await client.post(url, data={"text": TEXT, **data})
    assert response.status_code == 200, response.text
    return parse(response.text)


def pressed(page: Element) -> list[str]:
    """Values of the buttons that are marked as the target."""
    return [button["value"] for button in page.one("p", cls="strip").all("button") if "target" in button.classes]


async def test_the_form_comes_filled_in_and_without_a_result(probing: httpx.AsyncClient, url: str) -> None:
    page = parse((await probing.get(url, params={"text": TEXT})).text)
    assert page.one("textarea").text.removeprefix("\n") == TEXT
    assert not page.all("ol", cls="causes")
    assert [box["value"] for box in page.all("input", name="saes")] == [EARLY_SLUG]


async def test_the_next_token_is_explained_first(probing: httpx.AsyncClient, url: str, dictionary: Dictionary) -> None:
    page = await post(probing, url)
    strip = page.one("p", cls="strip")
    assert strip.text == BOS + TEXT + "next token"
    tokens = dictionary.model.tokenize(TEXT)
    best = int(dictionary.model.logits(torch.tensor([tokens]))[0, -1].argmax())
    assert page.one("input", name="chosen")["value"] == f"{len(tokens) - 1}:{best}"
    assert pressed(page) == [f"{len(tokens) - 1}:"]
    causes = page.all("li", cls="cause")
    assert len(causes) == 40
    verified = [cause.one("span", cls="cause-exact").text for cause in causes]
    assert all(text != "exact –" for text in verified[:20])
    assert all(text == "exact –" for text in verified[20:])


async def test_a_token_of_the_prompt_can_be_clicked(
    probing: httpx.AsyncClient, url: str, dictionary: Dictionary
) -> None:
    tokens = dictionary.model.tokenize(TEXT)
    choice = f"3:{tokens[4]}"
    page = await post(probing, url, choose=choice)
    assert page.one("input", name="chosen")["value"] == choice
    assert pressed(page) == [choice]


async def test_a_rival_is_subtracted(probing: httpx.AsyncClient, url: str, dictionary: Dictionary) -> None:
    page = await post(probing, url, choose="5:40:41")
    logits = dictionary.model.logits(torch.tensor([dictionary.model.tokenize(TEXT)[:6]]))[0, -1]
    assert page.one("input", name="chosen")["value"] == "5:40:41"
    shown = page.one("dl", cls="measures").all("span", cls="value")[0].text.replace("\u2212", "-")
    assert float(shown) == pytest.approx((logits[40] - logits[41]).item(), rel=0.01)


async def test_a_choice_holds_while_the_text_is_the_same(probing: httpx.AsyncClient, url: str) -> None:
    page = await post(probing, url, choose="5:40:41")
    kept = {name: page.one("input", name=name)["value"] for name in ("chosen", "chosen_in")}
    again = await post(probing, url, method="integrated", **kept)
    assert again.one("input", name="chosen")["value"] == "5:40:41"
    other = await post(probing, url, **kept | {"text": TEXT + " worst"})
    assert other.one("input", name="chosen")["value"] != "5:40:41"


async def test_another_token_is_named_by_its_text(probing: httpx.AsyncClient, url: str, dictionary: Dictionary) -> None:
    [the] = dictionary.model.tokenize(" the", prepend_bos=False)
    page = await post(probing, url, choose="5:40:other", other=" the")
    assert page.one("input", name="chosen")["value"] == f"5:40:{the}"


async def test_two_saes_make_a_graph_with_a_table(probing: httpx.AsyncClient, url: str) -> None:
    page = await post(probing, url, saes=[EARLY_SLUG])
    graph = page.one("svg", cls="graph")
    edges = graph.all("path", cls="edge")
    assert edges
    rows = next(table for table in page.all("table") if "weight" in table.text).one("tbody").all("tr")
    assert len(rows) == len(edges)
    links = {link["href"] for link in graph.all("a")}
    assert all("/features/" in link for link in links)
    assert any(EARLY_SLUG in link for link in links)


async def test_one_sae_has_no_graph(probing: httpx.AsyncClient, url: str) -> None:
    assert not (await post(probing, url)).all("svg", cls="graph")


async def test_htmx_gets_the_result_alone(probing: httpx.AsyncClient, url: str) -> None:
    response = await probing.post(url, data={"text": TEXT}, headers=HTMX)
    assert "<html" not in response.text
    assert parse(response.text).all("li", cls="cause")


async def test_a_cause_is_ablated_and_steered_on_the_same_prompt(probing: httpx.AsyncClient, url: str) -> None:
    cause = (await post(probing, url)).all("li", cls="cause")[0]
    feature = cause.all("a")[0].text
    ops = {}
    for link in cause.one("span", cls="cause-act").all("a"):
        form = parse((await probing.get(link["href"])).text)
        assert form.one("textarea", id="text").text.removeprefix("\n") == TEXT
        assert form.one("input", id="feature")["value"] == feature
        chosen = form.all("select", name="op")[0].all("option")
        ops[link.text] = [one["value"] for one in chosen if "selected" in one.attributes]
    assert ops == {"ablate": ["ablate"], "steer": ["clamp"]}


async def test_a_long_prompt_stays_out_of_addresses(
    probing: httpx.AsyncClient, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.web.components.prompts.MAX_CARRIED", len(TEXT) - 1)
    cause = (await post(probing, url)).all("li", cls="cause")[0]
    for link in cause.one("span", cls="cause-act").all("a"):
        assert "text=" not in link["href"]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"text": ""}, "The text is empty"),
        ({"text": "word " * 500}, "at most 100 can be probed"),
        ({"choose": "nonsense"}, "Choose a token by clicking it"),
        ({"choose": "999:4"}, "no token at position 999"),
        ({"choose": "3:other", "other": "several words here"}, "tokens, not one"),
        ({"method": "magic"}, "no such method"),
        ({"saes": "nothing"}, "no SAE “nothing”"),
    ],
)
async def test_bad_input_is_refused_beside_the_form(
    probing: httpx.AsyncClient, url: str, data: dict[str, str], words: str
) -> None:
    response = await probing.post(url, data={"text": TEXT, **data})
    assert 400 <= response.status_code < 500
    page = parse(response.text)
    assert words in page.one("div", cls="error").text
    assert page.all("textarea")
