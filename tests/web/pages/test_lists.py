from typing import Any

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.factories import Synthetic, make_sae
from tests.web.html import Element, parse
from tests.web.pages.conftest import HTMX

HOSTILE = "<b>rivers</b> & “lakes” \u202eriver"


@pytest.fixture
async def address(client: httpx.AsyncClient, made: Synthetic) -> str:
    """A list of features 5, 3 and 8."""
    data = {"name": HOSTILE, "description": "why\nso", "sae": made.sae.slug, "features": "5, 3 8,5"}
    response = await client.post("/lists", data=data)
    assert response.status_code == 303
    return response.headers["location"]


async def page_of(client: httpx.AsyncClient, address: str) -> Element:
    response = await client.get(address)
    assert response.status_code == 200
    return parse(response.text)


def fields(form: Element) -> dict[str, str]:
    """Return the fields that a form sends, without its buttons."""
    values = {each["name"]: each.attributes.get("value") or "" for each in form.all("input")}
    values.pop("key", None)  # another one each time
    return values | {each["name"]: each.text for each in form.all("textarea")}


def form_of(page: Element, action: str, place: int = 0) -> tuple[str, dict[str, str]]:
    """Return the `place`-th form that posts to such an address, and the fields that it sends."""
    form = [each for each in page.all("form") if (each.attributes.get("action") or "").endswith(action)][place]
    return form["action"], fields(form)


def numbers(page: Element) -> list[int]:
    return [int(row.one("span", cls="feature-number").text) for row in page.all("a", cls="feature-row")]


def notes(page: Element) -> list[str]:
    return [note.text for note in page.all("p", cls="item-text")]


async def test_a_lasso_becomes_a_list(client: httpx.AsyncClient, address: str, made: Synthetic) -> None:
    page = await page_of(client, address)
    assert page.one("h1").text == HOSTILE
    assert numbers(page) == [5, 3, 8]
    assert "why\nso" in page.one("div", id="list-title").text
    assert made.sae.slug in page.one("p", id="list-facts").text
    rows = page.all("a", cls="feature-row")
    assert rows[0]["href"] == f"/saes/{made.sae.slug}/features/5"
    assert rows[0].one("span", cls="feature-example").all("span", cls="line")
    [listed] = (await page_of(client, "/lists")).all("a", cls="list-row")
    assert listed["href"] == address
    assert HOSTILE in listed.text
    assert "3 features" in listed.text
    assert "ada" in listed.text


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"name": " "}, "needs a name"),
        ({"name": "x" * 81}, "80"),
        ({"features": "1, two"}, "“two” is not the number"),
        ({"features": "1 -2"}, "“-2” is not the number"),
        ({"features": "24"}, "0 to 23"),
        ({"features": "9" * 400}, "not the number"),
        ({"features": " ".join(map(str, range(5_001)))}, "5,000"),
        ({"sae": "none"}, "no SAE “none”"),
        ({"sae": ""}, "no SAE"),
    ],
)
async def test_a_list_that_cannot_be_created_is_not_lost(
    client: httpx.AsyncClient, made: Synthetic, changed: dict[str, str], said: str
) -> None:
    written = {"name": "Rivers", "description": "so", "sae": made.sae.slug, "features": "1, 2"}
    response = await client.post("/lists", data=written | changed)
    assert response.status_code == 422
    page = parse(response.text)
    assert said in page.one("p", cls="error").text
    assert form_of(page, "/lists")[1] == written | changed
    assert not page.all("a", cls="list-row")


async def test_lists_come_in_pages(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "No list yet" in (await client.get("/lists")).text
    monkeypatch.setattr("app.web.pages.lists._LISTS_PER_PAGE", 2)
    for number in range(3):
        await client.post("/lists", data={"name": f"list {number}"})
    first = await page_of(client, "/lists")
    assert len(first.all("a", cls="list-row")) == 2
    second = await page_of(client, first.one("a", data_more=None)["href"])
    assert ["list 0" in row.text for row in second.all("a", cls="list-row")] == [True]
    assert not second.all("a", data_more=None)
    assert "no earlier lists" in (await client.get("/lists?before=1")).text
    assert (await client.get("/lists?before=x")).status_code == 422
    assert (await client.get(f"/lists?before={2**70}")).status_code == 422


@pytest.mark.parametrize("headers", [{}, HTMX], ids=["page", "htmx"])
async def test_features_can_be_moved(client: httpx.AsyncClient, address: str, headers: dict[str, str]) -> None:
    action, sent = form_of(await page_of(client, address), "/move", place=2)
    assert sent["feature"] == "8"
    response = await client.post(action, data=sent | {"direction": "up"}, headers=headers)
    if headers:
        moved = parse(response.text)
        assert numbers(moved) == [5, 8, 3]
        assert "changed" in moved.one("p", id="list-facts", hx_swap_oob="innerHTML").text
    else:
        assert response.status_code == 303
        assert response.headers["location"] == f"{address}#item-{sent['sae']}-8"
    # The page that was read is an old one by now; to move moves all the same.
    await client.post(action, data=sent | {"direction": "up"}, headers=headers)
    await client.post(action, data=sent | {"direction": "up"}, headers=headers)
    assert numbers(await page_of(client, address)) == [8, 5, 3]
    assert (await client.post(action, data=sent | {"direction": "away"}, headers=headers)).status_code == 422


async def test_features_come_in_pages(client: httpx.AsyncClient, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.web.pages.lists._FEATURES_PER_PAGE", 2)
    first = await page_of(client, address)
    assert numbers(first) == [5, 3]
    after = first.one("a", data_more=None)["href"]
    second = await page_of(client, after)
    assert numbers(second) == [8]
    action, sent = form_of(second, "/move")
    moved = await client.post(action, data=sent | {"direction": "up"}, headers=HTMX)
    assert numbers(parse(moved.text)) == [3]
    assert "on the page before" in parse(moved.text).one("p", role="status").text
    assert "no features after" in (await client.get(f"{address}?after=99")).text
    assert (await client.get(f"{address}?after=x")).status_code == 422
    assert (await client.get(f"{address}?after={2**70}")).status_code == 200


async def test_a_note_is_written_without_javascript(client: httpx.AsyncClient, address: str) -> None:
    action, sent = form_of(await page_of(client, address), "/note", place=1)
    response = await client.post(action, data=sent | {"note": "wide\r\n<i>slow</i>"})
    assert response.headers["location"] == f"{address}#item-{sent['sae']}-3"
    assert notes(await page_of(client, address)) == ["wide\n<i>slow</i>"]


async def test_two_notes_of_the_same_version_are_saved(client: httpx.AsyncClient, address: str) -> None:
    page = await page_of(client, address)
    for place in (0, 1):
        action, sent = form_of(page, "/note", place)
        response = await client.post(action, data=sent | {"note": f"note {place}"}, headers=HTMX)
        assert response.status_code == 200
        assert notes(parse(response.text)) == [f"note {place}"]
        assert "Saved." in response.text
    assert notes(await page_of(client, address)) == ["note 0", "note 1"]


@pytest.mark.parametrize("headers", [{}, HTMX], ids=["page", "htmx"])
async def test_a_note_that_changed_meanwhile_shows_both(
    client: httpx.AsyncClient, address: str, headers: dict[str, str]
) -> None:
    action, sent = form_of(await page_of(client, address), "/note")
    await client.post(action, data=sent | {"note": "theirs"})
    response = await client.post(action, data=sent | {"note": "mine"}, headers=headers)
    assert response.status_code == 409
    page = parse(response.text)
    assert notes(page) == ["theirs"]
    again, written = form_of(page, "/note")
    assert written["note"] == "mine"
    assert "open" in page.one("details", cls="note-form").attributes
    assert (await client.post(again, data=written)).status_code == 303
    assert notes(await page_of(client, address)) == ["mine"]


@pytest.mark.parametrize("headers", [{}, HTMX], ids=["page", "htmx"])
async def test_a_note_on_a_removed_feature_can_restore_it(
    client: httpx.AsyncClient, address: str, headers: dict[str, str]
) -> None:
    page = await page_of(client, address)
    action, sent = form_of(page, "/remove")
    await client.post(action, data=sent)
    action, sent = form_of(page, "/note")
    response = await client.post(action, data=sent | {"note": "mine"}, headers=headers)
    assert response.status_code == 409
    back, written = form_of(parse(response.text), "/items")
    assert (await client.post(back, data=written, headers=headers)).status_code in (200, 303)
    page = await page_of(client, address)
    assert numbers(page) == [3, 8, 5]
    assert notes(page) == ["mine"]


async def test_a_note_that_is_too_long_is_not_lost(client: httpx.AsyncClient, address: str) -> None:
    action, sent = form_of(await page_of(client, address), "/note")
    response = await client.post(action, data=sent | {"note": "x" * 501}, headers=HTMX)
    assert response.status_code == 422
    assert "500" in parse(response.text).one("p", cls="error").text
    assert form_of(parse(response.text), "/note")[1]["note"] == "x" * 501


async def test_a_removed_feature_is_restored_at_its_position(client: httpx.AsyncClient, address: str) -> None:
    page = await page_of(client, address)
    action, sent = form_of(page, "/note", place=1)
    await client.post(action, data=sent | {"note": "keep"})
    action, sent = form_of(await page_of(client, address), "/remove", place=1)
    removed = parse((await client.post(action, data=sent, headers=HTMX)).text)
    assert "Feature 3 is out of the list" in removed.text
    assert "2 features" in removed.one("p", id="list-facts").text
    assert numbers(await page_of(client, address)) == [5, 8]
    action, sent = form_of(removed, "/items")
    row = parse((await client.post(action, data=sent, headers=HTMX)).text)
    assert numbers(row) == [3]
    page = await page_of(client, address)
    assert numbers(page) == [5, 3, 8]
    assert notes(page) == ["keep"]
    again = await client.post(action, data=sent, headers=HTMX)
    assert numbers(parse(again.text)) == [3]


async def test_without_javascript_removal_asks_first(client: httpx.AsyncClient, address: str) -> None:
    page = await page_of(client, address)
    form = page.all("form", method="get")[0]
    assert form["method"] == "get"
    ask = await page_of(client, f"{form['action']}?{httpx.QueryParams(fields(form))}")
    assert numbers(await page_of(client, address)) == [5, 3, 8]
    action, sent = form_of(ask, "/remove")
    response = await client.post(action, data=sent)
    assert response.headers["location"] == address
    assert numbers(await page_of(client, address)) == [3, 8]
    assert (await client.get(f"{form['action']}?{httpx.QueryParams(fields(form))}")).status_code == 404


@pytest.mark.parametrize("headers", [{}, HTMX], ids=["page", "htmx"])
async def test_a_feature_with_an_unread_note_is_not_removed(
    client: httpx.AsyncClient, address: str, headers: dict[str, str]
) -> None:
    page = await page_of(client, address)
    note, written = form_of(page, "/note")
    await client.post(note, data=written | {"note": "important"})
    action, sent = form_of(page, "/remove")
    response = await client.post(action, data=sent, headers=headers)
    assert response.status_code == 409
    assert "important" in response.text
    action, sent = form_of(parse(response.text), "/remove")
    assert (await client.post(action, data=sent, headers=headers)).status_code in (200, 303)
    assert numbers(await page_of(client, address)) == [3, 8]


async def test_a_removed_feature_cannot_move(client: httpx.AsyncClient, address: str) -> None:
    page = await page_of(client, address)
    action, sent = form_of(page, "/remove")
    await client.post(action, data=sent)
    for path, change in (("/move", {"direction": "up"}), ("/remove", {})):
        action, sent = form_of(page, path)
        response = await client.post(action, data=sent | change, headers=HTMX)
        assert response.status_code == 409
        assert response.headers["hx-retarget"] == "#notice"
        assert "taken out" in response.text
        assert "taken out" in (await client.post(action, data=sent | change)).text


async def test_a_list_is_renamed(client: httpx.AsyncClient, address: str) -> None:
    action, sent = form_of(await page_of(client, address), address)
    assert (sent["name"], sent["description"]) == (HOSTILE, "why\nso")
    response = await client.post(action, data=sent | {"name": "Lakes"})
    assert (response.status_code, response.headers["location"]) == (303, address)
    title = parse((await client.post(action, data=sent | {"name": "Ponds", "version": "2"}, headers=HTMX)).text)
    assert title.one("h1").text == "Ponds"
    assert (await page_of(client, address)).one("h1").text == "Ponds"


@pytest.mark.parametrize("headers", [{}, HTMX], ids=["page", "htmx"])
async def test_a_name_that_changed_meanwhile_shows_both(
    client: httpx.AsyncClient, address: str, headers: dict[str, str]
) -> None:
    action, sent = form_of(await page_of(client, address), address)
    await client.post(action, data=sent | {"name": "theirs"})
    response = await client.post(action, data=sent | {"name": "mine"}, headers=headers)
    assert response.status_code == 409
    page = parse(response.text)
    assert page.one("h1").text == "theirs"
    again, written = form_of(page, address)
    assert written["name"] == "mine"
    assert "open" in page.one("details", cls="list-form").attributes
    assert (await client.post(again, data=written)).status_code == 303
    refused = await client.post(again, data=written | {"name": ""}, headers=headers)
    assert refused.status_code == 422
    assert parse(refused.text).one("h1").text == "mine"


async def test_a_list_is_deleted_only_in_the_version_that_was_read(client: httpx.AsyncClient, address: str) -> None:
    action, sent = form_of(await page_of(client, f"{address}/delete"), "/delete")
    move, moved = form_of(await page_of(client, address), "/move")
    await client.post(move, data=moved | {"direction": "down"})
    stale = await client.post(action, data=sent)
    assert stale.status_code == 409
    action, sent = form_of(parse(stale.text), "/delete")
    response = await client.post(action, data=sent)
    assert (response.status_code, response.headers["location"]) == (303, "/lists")
    for gone in ("", "/delete", "/remove?sae=x&feature=1"):
        assert (await client.get(f"{address}{gone}")).status_code == 404
    for action, body in (
        ("", {"version": 1, "name": "x"}),
        ("/delete", {"version": 1}),
        ("/items", {"sae": moved["sae"], "feature": 1}),
        ("/note", moved | {"note": "x"}),
        ("/move", moved | {"direction": "up"}),
        ("/remove", moved),
    ):
        assert (await client.post(f"{address}{action}", data=body)).status_code == 404, action


@pytest.mark.parametrize("path", ["/note", "/remove", "/move", "/items", "", "/delete"])
async def test_invalid_fields_are_refused(client: httpx.AsyncClient, address: str, path: str) -> None:
    bodies: list[dict[str, Any]] = [
        {},
        {"version": "x", "sae": "nul\0", "feature": 1, "direction": "up", "name": "x"},
        {"version": -1, "sae": "\0", "feature": 2**70, "direction": "up", "note": "x", "name": "\0"},
        {"version": 2**70, "sae": "x" * 10_000, "feature": -1, "direction": "up", "note": "x", "position": 2**70},
    ]
    for body in bodies:
        assert (await client.post(f"{address}{path}", data=body)).status_code in (404, 409, 422), body
    assert numbers(await page_of(client, address)) == [5, 3, 8]


async def test_features_of_several_saes_name_their_sae(
    client: httpx.AsyncClient, address: str, engine: AsyncEngine, made: Synthetic
) -> None:
    assert not (await page_of(client, address)).all("a", cls="item-sae")
    await make_sae(engine, slug="bare", publish=False)
    await client.post(f"{address}/items", data={"sae": "bare", "feature": "3", "note": "not indexed"})
    page = await page_of(client, address)
    assert [each.text for each in page.all("a", cls="item-sae")] == [made.sae.slug] * 3 + ["bare"]
    assert numbers(page) == [5, 3, 8, 3]
    assert "no index of this SAE yet" in page.text
    assert "(3)" in page.one("p", id="list-facts").text


async def test_a_feature_is_added_from_its_page(client: httpx.AsyncClient, base: str, address: str) -> None:
    url = f"{base}/features/7"
    page = await page_of(client, url)
    panel = page.one("section", id="lists")
    assert [each["value"] for each in panel.all("option")] == [address.removeprefix("/lists/"), ""]
    response = await client.post(f"{url}/lists", data={"list": "", "name": "Ponds", "note": "small"})
    assert (response.status_code, response.headers["location"]) == (303, f"{url}#lists")
    added = await client.post(f"{url}/lists", data={"list": address.removeprefix("/lists/")}, headers=HTMX)
    panel = parse(added.text).one("section", id="lists")
    assert f"Added to {HOSTILE}." in panel.text
    held = panel.one("ul", cls="holding")
    assert [each.text for each in held.all("a")] == [HOSTILE, "Ponds"]
    assert "small" in held.text
    assert not panel.all("select")
    assert numbers(await page_of(client, address)) == [5, 3, 8, 7]
    assert numbers(await page_of(client, held.all("a")[1]["href"])) == [7]


async def test_the_page_of_a_feature_knows_when_its_lists_change(
    client: httpx.AsyncClient, base: str, address: str
) -> None:
    url = f"{base}/features/5"
    known = (await client.get(url)).headers["etag"]
    assert (await client.get(url, headers={"If-None-Match": known})).status_code == 304
    action, sent = form_of(await page_of(client, address), "/note")
    await client.post(action, data=sent | {"note": "new"})
    again = await client.get(url, headers={"If-None-Match": known})
    assert again.status_code == 200
    assert "new" in parse(again.text).one("ul", cls="holding").text


@pytest.mark.parametrize("headers", [{}, HTMX], ids=["page", "htmx"])
@pytest.mark.parametrize(
    ("sent", "status", "said"),
    [
        ({"list": "", "name": "", "note": "mine"}, 422, "needs a name"),
        ({"list": "gone", "name": "", "note": "mine"}, 404, "no list"),
        ({"list": "", "name": "x" * 81, "note": "mine"}, 422, "80"),
        ({"list": "", "name": "x", "note": "x" * 501}, 422, "500"),
    ],
)
async def test_a_feature_that_cannot_be_added_is_not_lost(
    client: httpx.AsyncClient, base: str, sent: dict[str, str], status: int, said: str, headers: dict[str, str]
) -> None:
    response = await client.post(f"{base}/features/7/lists", data=sent, headers=headers)
    assert response.status_code == status
    panel = parse(response.text).one("section", id="lists")
    assert said in panel.one("p", cls="error").text
    kept = fields(panel.one("form"))
    assert {name: sent[name] for name in kept} == kept
    assert "open" in panel.one("details").attributes
    assert not panel.all("ul", cls="holding")


async def test_a_feature_is_in_a_list_once(client: httpx.AsyncClient, base: str, address: str) -> None:
    sent = {"list": address.removeprefix("/lists/")}
    added = await client.post(f"{base}/features/5/lists", data=sent, headers=HTMX)
    assert added.status_code == 200
    sent["note"] = "another note"
    response = await client.post(f"{base}/features/5/lists", data=sent, headers=HTMX)
    assert response.status_code == 422
    assert "already" in parse(response.text).one("p", cls="error").text
    assert (await client.post(f"{base}/features/99/lists", data=sent)).status_code == 404


async def test_another_site_cannot_change_a_list(client: httpx.AsyncClient, address: str) -> None:
    foreign = {"Origin": "https://elsewhere.example"}
    assert (await client.post("/lists", data={"name": "x"}, headers=foreign)).status_code == 403
    assert (await client.post(f"{address}/delete", data={"version": 1}, headers=foreign)).status_code == 403


async def test_a_double_click_makes_one_list(client: httpx.AsyncClient, base: str) -> None:
    for action, page in (("/lists", "/lists"), ("/features/5/lists", f"{base}/features/5")):
        read = parse((await client.get(page)).text)
        address, empty = form_of(read, action)
        sent = empty | {"name": f"From {action}", "list": "", "key": read.one("input", name="key")["value"]}
        for _ in range(2):
            assert (await client.post(address, data=sent)).status_code == 303
        names = [name.text for name in parse((await client.get("/lists")).text).all("bdi")]
        assert names.count(f"From {action}") == 1
