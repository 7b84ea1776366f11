import httpx

from tests.factories import Synthetic
from tests.web.html import parse
from tests.web.pages.conftest import HTMX

RULES = {
    "name": "First pass",
    "guideline": "# How\n\nBe *short*. <script>alert(1)</script> [x](javascript:alert(1))",
    "categories": "syntax, topic",
    "needed": "1",
    "order": "random",
}


def shown_in(part: str) -> str:
    """Return the feature that a part of the page asks to label."""
    return parse(part).all("input", name="feature")[0]["value"]


async def test_a_set_is_made_labelled_and_closed_without_javascript(client: httpx.AsyncClient, made: Synthetic) -> None:
    assert (await client.get(f"/labelsets/new?sae={made.sae.slug}")).status_code == 200
    fields = {"sae": made.sae.slug, "scope": "features", "features": "3 4"}
    refused = await client.post("/labelsets", data=RULES | fields | {"features": "3 x"})
    assert refused.status_code == 422
    assert "3 x" in refused.text
    response = await client.post("/labelsets", data=RULES | fields)
    assert response.status_code == 303
    address = response.headers["location"]
    page = (await client.get(address)).text
    assert "<em>short</em>" in page
    assert "<script>alert" not in page
    assert 'href="javascript' not in page

    assert "Begin" in (await client.get(f"{address}/label")).text
    seen = []
    for _ in range(2):
        response = await client.post(f"{address}/next")
        shown = parse((await client.get(response.headers["location"])).text)
        feature = shown.one("form", action=f"{address}/label").one("input", name="feature")["value"]
        seen.append(feature)
        wrong = await client.post(f"{address}/label", data={"feature": feature, "explanation": " "})
        assert wrong.status_code == 422
        sent = {"feature": feature, "categories": "topic", "interpretability": "4", "status": "submitted"}
        response = await client.post(f"{address}/label", data=sent)
        assert response.status_code == 303
    assert sorted(seen) == ["3", "4"]
    assert "All done" in (await client.get(response.headers["location"])).text
    undone = await client.post(f"{address}/undo")
    assert undone.headers["location"] == f"{address}/label?feature={seen[-1]}&undone=1"
    assert "Taken back" in (await client.get(undone.headers["location"])).text

    assert (await client.get(f"{address}/edit")).status_code == 200
    changed = await client.post(address, data=RULES | {"guideline": "Be exact.", "guideline_version": "1"})
    assert changed.status_code == 303
    assert (await client.post(address, data=RULES | {"guideline_version": "1"})).status_code == 409
    await client.post(f"{address}/closed", data={"closed": "true"})
    assert "Open again" in (await client.get(address)).text
    assert "First pass" in (await client.get(f"/label?sae={made.sae.slug}")).text


async def test_closing_a_blind_set_is_asked_about(client: httpx.AsyncClient, made: Synthetic) -> None:
    fields = {"sae": made.sae.slug, "scope": "features", "features": "3 4"}
    asked = []
    for name, blind in (("seen", {}), ("blind", {"blind": "true"})):
        address = (await client.post("/labelsets", data=RULES | fields | {"name": name} | blind)).headers["location"]
        asked.append("shows everybody all" in (await client.get(address)).text)
    assert asked == [False, True]
    shown = parse((await client.get(address)).text).one("details", **{"class": "close-set"})
    assert shown.one("form", action=f"{address}/closed").one("button").text == "Close it, and show all labels"
    taken = await client.post("/labelsets", data=RULES | fields | {"name": "SEEN"})
    assert (taken.status_code, "“seen” already" in taken.text) == (409, True)


async def test_a_script_gets_parts_of_the_page(client: httpx.AsyncClient, made: Synthetic) -> None:
    fields = {"sae": made.sae.slug, "scope": "features", "features": "3 4"}
    address = (await client.post("/labelsets", data=RULES | fields)).headers["location"]
    first = shown_in((await client.post(f"{address}/next", headers=HTMX)).text)
    ahead = await client.post(f"{address}/next", data={"besides": first}, headers=HTMX)
    second = shown_in(ahead.text)
    assert {first, second} == {"3", "4"}
    saved = await client.post(f"{address}/label", data={"feature": first, "explanation": "x"}, headers=HTMX)
    assert parse(saved.text).one("div", id="flow-progress").text.strip().startswith("1 labelled")
    skipped = await client.post(f"{address}/skip", data={"feature": second}, headers=HTMX)
    assert "left" in skipped.text
