"""The probe page over a real model, SAE and inference service."""

import json

import httpx
import pytest
import torch

from app.services.inference import InferenceClient
from tests.app.inference.dictionaries import Dictionary, activations
from tests.tiny import BOS
from tests.web.html import Element, parse
from tests.web.pages.conftest import HTMX
from tests.web.site import app_of

pytestmark = pytest.mark.read_only

TEXT = '\nIt was the best of <script>alert("times")</script>,\nit was the worst.'


def written(page: Element) -> str:
    """Return the content of the text field; a browser drops the first line break after the tag."""
    return page.one("textarea", id="text").text.removeprefix("\n")


@pytest.fixture
def url(dictionary: Dictionary) -> str:
    return f"/saes/{dictionary.row.slug}/probe"


async def test_features_and_shades_are_those_of_model_and_sae(
    probing: httpx.AsyncClient, url: str, dictionary: Dictionary
) -> None:
    response = await probing.post(url, data={"text": TEXT.replace("\n", "\r\n")})
    assert response.status_code == 200
    page = parse(response.text)
    expected = activations(dictionary, TEXT)
    strip = page.one("p", cls="strip")
    assert strip.text.removeprefix(BOS).replace("↵", "") == TEXT
    assert written(page) == TEXT

    data = json.loads(page.one("script", data_probe_data=None).text)
    for feature in data["features"]:
        f = expected[:, feature["index"]]
        assert {int(at): pytest.approx(value, rel=1e-4) for at, value in feature["activations"].items()} == {
            at: f[at].item() for at in f.nonzero().flatten().tolist()
        }
    assert [len(found) for found in data["tokens"]] == [min(8, number) for number in data["firing"]]
    assert data["firing"] == (expected > 0).sum(dim=1).tolist()

    ranks = page.all("li", cls="rank")
    assert len(ranks) == min(50, int((expected.sum(dim=0) > 0).sum()))
    first = int(ranks[0].one("button")["value"])
    assert ranks[0].one("button")["aria-pressed"] == "true"
    shaded = {
        place
        for place, token in enumerate(strip.all("span", cls="t"))
        if token.classes & {f"a{i}" for i in range(1, 7)}
    }
    assert shaded == set(expected[:, first].nonzero().flatten().tolist())
    top = [place for place, token in enumerate(strip.all("span", cls="t")) if "top" in token.classes]
    assert top == [int(torch.argmax(expected[:, first]))]


async def test_another_feature_shades_without_javascript(probing: httpx.AsyncClient, url: str) -> None:
    ranks = parse((await probing.post(url, data={"text": TEXT})).text).all("li", cls="rank")
    other = ranks[3].one("button")
    page = parse((await probing.post(url, data={"text": TEXT, other["name"]: other["value"]})).text)
    pressed = [button["value"] for button in page.all("button", cls="rank-pin") if button["aria-pressed"] == "true"]
    assert pressed == [other["value"]]
    assert page.one("span", cls="probe-shaded").one("a").text.endswith(other["value"])


async def test_htmx_gets_the_result_only(probing: httpx.AsyncClient, url: str) -> None:
    text = (await probing.post(url, data={"text": TEXT}, headers=HTMX)).text
    assert 'id="probe-form"' not in text
    assert parse(text).one("section", cls="probe-result")


@pytest.mark.parametrize("headers", [{}, HTMX], ids=["page", "htmx"])
@pytest.mark.parametrize(("text", "status", "said"), [("", 422, "empty"), ("word " * 200, 413, "100")])
async def test_limits_are_explained_and_the_text_stays(
    probing: httpx.AsyncClient, url: str, headers: dict[str, str], text: str, status: int, said: str
) -> None:
    response = await probing.post(url, data={"text": text}, headers=headers)
    assert response.status_code == status
    page = parse(response.text)
    assert said in page.one("div", cls="error").text
    if not headers:
        assert written(page) == text


@pytest.mark.own_database
async def test_without_inference_the_page_says_so(client: httpx.AsyncClient, base: str) -> None:
    response = await client.post(f"{base}/probe", data={"text": TEXT})
    assert response.status_code == 503
    page = parse(response.text)
    assert "inference process" in page.one("div", cls="error").text
    assert written(page) == TEXT
    assert page.one("div", cls="error").one("a")["href"] == f"{base}/features"


@pytest.mark.own_database
async def test_a_link_fills_the_form_and_sends_nothing(client: httpx.AsyncClient, base: str) -> None:
    response = await client.get(f"{base}/probe", params={"text": TEXT})
    assert response.status_code == 200  # inference is down here, and is not asked
    page = parse(response.text)
    assert written(page) == TEXT
    assert not page.all("div", cls="error")
    assert page.one("form", id="probe-form")["method"] == "post"


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("probe", {"text": TEXT}),
        ("features/by-example", {"text": TEXT, "max_density": "", "in_address": "1"}),
        ("features/3/try", {"text": TEXT}),
    ],
)
async def test_a_page_that_waits_for_the_model_says_so_and_asks_again(
    probing: httpx.AsyncClient, dictionary: Dictionary, path: str, fields: dict[str, str]
) -> None:
    app = app_of(probing)
    client = app.state.inference
    loading = {"what": "The model tiny is being loaded", "elapsed": 4.2, "expected": 9.0}
    body = {"title": "Loading the model", "detail": "Wait.", "loading": loading}
    reply = httpx.MockTransport(lambda _request: httpx.Response(503, json=body, headers={"Retry-After": "5"}))
    app.state.inference = InferenceClient(app.state.settings, transport=reply)
    url = f"/saes/{dictionary.row.slug}/{path}"
    try:
        response = await probing.post(url, data=fields, headers=HTMX, follow_redirects=True)
        whole = await probing.post(url, data=fields, follow_redirects=True)
    finally:
        app.state.inference = client
    assert response.status_code == whole.status_code == 503
    for page in (parse(response.text), parse(whole.text)):
        waiting = page.one("form", cls="notice")
        assert "The model tiny is being loaded: 4 s so far, 9 s the last time." in waiting.text
        assert (waiting["action"], waiting["hx-post"], waiting["hx-trigger"]) == (url, url, "load delay:1s")
        assert {area["name"]: area.text.removeprefix("\n") for area in waiting.all("textarea")} == fields
        assert waiting.one("noscript").one("button").text == "Try again"


async def test_two_prompts_are_compared(probing: httpx.AsyncClient, url: str) -> None:
    fields = {"mode": "diff", "text": "The nurse said he", "other": "The nurse said she"}
    page = parse((await probing.post(url, data=fields)).text)
    tokens = page.one("ol", cls="diff-tokens").all("li")
    assert "same" in tokens[0].classes
    assert "same" not in tokens[-1].classes
    rows = page.all("li", cls="rank")
    assert rows
    for row in rows:
        assert ("shared" in row.classes) == (row.one("span", cls="diff-where").text == "both")
    assert "No feature differs" in (await probing.post(url, data=fields | {"other": fields["text"]})).text


async def test_a_model_without_a_chat_template_says_so_and_keeps_the_turns(
    probing: httpx.AsyncClient, url: str
) -> None:
    fields = {"mode": "chat", "role": ["system", "user"], "content": ["", "Hello <b>"]}
    response = await probing.post(url, data=fields)
    assert response.status_code == 422
    page = parse(response.text)
    assert "tiny has no chat template" in page.one("div", id="result").one("div", role="alert").text
    assert page.all("textarea")[1].text.removeprefix("\n") == "Hello <b>"


@pytest.mark.parametrize(
    ("fields", "status", "says"),
    [
        ({"mode": "diff", "text": "one"}, 422, "enter both"),
        ({"mode": "chat"}, 422, "no turns"),
        ({"text": "x", "saes": "nothing"}, 404, "“nothing”"),
    ],
)
async def test_a_form_that_does_not_fit_is_explained(
    probing: httpx.AsyncClient, url: str, fields: dict[str, str], status: int, says: str
) -> None:
    response = await probing.post(url, data=fields)
    assert response.status_code == status
    assert says in parse(response.text).one("div", id="result").one("div", role="alert").text


async def test_the_page_says_which_tokens_were_added(probing: httpx.AsyncClient, url: str) -> None:
    page = parse((await probing.post(url, data={"text": "Some words"})).text)
    assert " ".join(page.one("p", data_added_tokens=None).text.split()).startswith("1 token was added")
    assert BOS in page.one("p", data_added_tokens=None).text


async def test_an_unknown_way_to_probe_is_explained(probing: httpx.AsyncClient, url: str) -> None:
    assert (await probing.get(url, params={"mode": "magic"})).status_code == 422


async def test_a_prompt_goes_on_to_attribution_and_to_steering(probing: httpx.AsyncClient, url: str) -> None:
    following = parse((await probing.post(url, data={"text": TEXT})).text).one("form", cls="probe-next")
    sent = following.one("textarea").text.removeprefix("\n")
    assert sent == TEXT
    attributed = parse((await probing.post(following["action"], data={"text": sent})).text)
    assert attributed.all("li", cls="cause")
    steered = parse((await probing.get(following.one("a")["href"])).text)
    assert written(steered) == TEXT
    assert following.one("a").text == f"Steer feature {steered.one('input', id='feature')['value']}"
