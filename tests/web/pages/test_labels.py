import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from app.services.actors import Role
from tests.factories import Synthetic, add_label, make_sae
from tests.people import sign_in
from tests.web.html import Element, parse
from tests.web.pages.conftest import HTMX

WRITTEN = {
    "explanation": "rivers <i>and</i> lakes",
    "categories": "topic, water,",
    "confidence": "4",
}


def form(page: Element) -> dict[str, str]:
    """Return the values of the form's fields."""
    element = page.one("details", cls="label-form").one("form")
    values = {
        field["name"]: field.attributes.get("value") or ""
        for field in element.all("input")
        if field.attributes.get("type") != "radio"
        and (field.attributes.get("type") != "checkbox" or "checked" in field.attributes)
    }
    values["explanation"] = element.one("textarea").text
    checked = [field["value"] for field in element.all("input", name="confidence") if "checked" in field.attributes]
    return values | {"confidence": "".join(checked)}


async def test_a_label_is_saved_without_javascript(client: httpx.AsyncClient, base: str) -> None:
    empty = parse((await client.get(f"{base}/features/5")).text)
    response = await client.post(f"{base}/features/5/labels", data=form(empty) | WRITTEN)
    assert response.status_code == 303
    assert response.headers["location"] == f"{base}/features/5?saved=1#labels"
    page = parse((await client.get(response.headers["location"])).text)
    assert page.one("p", cls="good").text == "Saved."
    assert page.one("a", data_key="n")["href"].startswith(f"{base}/features/")
    assert page.one("p", cls="label-text").text == "rivers <i>and</i> lakes"
    assert [tag.text for tag in page.one("ol", cls="labels").all("span", cls="tag")] == ["topic", "water"]
    assert page.one("h1").text == "rivers <i>and</i> lakes"


async def test_the_form_holds_ones_own_label(client: httpx.AsyncClient, base: str) -> None:
    await client.post(f"{base}/features/5/labels", data=WRITTEN)
    mine = form(parse((await client.get(f"{base}/features/5")).text))
    assert (mine["explanation"], mine["version"], mine["categories"], mine["confidence"]) == (
        WRITTEN["explanation"],
        "1",
        "topic, water",
        "4",
    )


async def test_htmx_gets_the_panel_with_the_history(client: httpx.AsyncClient, base: str) -> None:
    url = f"{base}/features/5/labels"
    first = parse((await client.post(url, data=WRITTEN, headers=HTMX)).text)
    assert "Saved." in first.text
    assert first.one("div", id="feature-title").one("h1").text == "rivers <i>and</i> lakes"
    second = await client.post(url, data=form(first) | {"explanation": "water"}, headers=HTMX)
    panel = parse(second.text)
    assert panel.one("p", cls="label-text").text == "water"
    versions = [item.text for item in panel.one("ol", cls="history").all("li")]
    assert len(versions) == 2
    assert "water" in versions[0]
    assert "rivers <i>and</i> lakes" in versions[1]


@pytest.mark.parametrize("headers", [{}, HTMX], ids=["page", "htmx"])
async def test_a_conflict_shows_both_texts_and_the_next_save_wins(
    client: httpx.AsyncClient, base: str, headers: dict[str, str]
) -> None:
    url = f"{base}/features/5/labels"
    await client.post(url, data=WRITTEN)
    stale = form(parse((await client.get(f"{base}/features/5")).text))
    await client.post(url, data=stale | {"explanation": "theirs"})

    response = await client.post(url, data=stale | {"explanation": "mine"}, headers=headers)
    assert response.status_code == 409
    page = parse(response.text)
    assert page.one("blockquote").text == "theirs"
    assert form(page)["explanation"] == "mine"
    assert "open" in page.one("details", cls="label-form").attributes

    assert (await client.post(url, data=form(page))).status_code == 303
    page = parse((await client.get(f"{base}/features/5")).text)
    assert page.one("p", cls="label-text").text == "mine"
    assert len(page.one("ol", cls="history").all("li")) == 3


async def test_another_person_writes_another_label(client: httpx.AsyncClient, base: str, engine: AsyncEngine) -> None:
    url = f"{base}/features/5/labels"
    for name in ("ada", "grace"):
        person = await sign_in(engine, name)
        page = parse((await client.get(f"{base}/features/5?label=1", headers=person.headers)).text)
        written = await client.post(url, data=form(page) | WRITTEN, headers=person.headers)
        assert written.status_code == 303
    page = parse((await client.get(f"{base}/features/5", headers=person.headers)).text)
    assert len(page.one("ol", cls="labels").all("p", cls="label-text")) == 2


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"explanation": "  "}, ""),
        ({"explanation": "x" * 2001}, "2,000"),
        ({"explanation": "a\0b"}, ""),
        ({"categories": "c" * 41}, "40"),
    ],
)
async def test_a_label_that_cannot_be_saved_is_not_lost(
    client: httpx.AsyncClient, base: str, changed: dict[str, str], said: str
) -> None:
    response = await client.post(f"{base}/features/5/labels", data=WRITTEN | changed, headers=HTMX)
    assert response.status_code == 422
    panel = parse(response.text)
    error = panel.one("p", cls="error").text
    assert error
    assert said in error
    kept = form(panel)
    expected = WRITTEN | changed
    assert kept["categories"] == expected["categories"].rstrip(",")
    assert kept["explanation"].replace("\ufffd", "\0") == expected["explanation"]
    assert not panel.all("p", cls="label-text")


async def test_the_queue_shows_unlabelled_features_strongest_first(
    client: httpx.AsyncClient, made: Synthetic, session: AsyncSession
) -> None:
    await add_label(session, made.sae, 2, "x")
    await session.commit()
    page = parse((await client.get("/label")).text)
    strength = {row.number: row.max for row in made.features.rows()}
    got = [int(row.one("span", cls="feature-number").text) for row in page.all("a", cls="feature-row")]
    assert set(got) == set(strength) - {2}
    assert [strength[number] for number in got] == sorted((strength[n] for n in got), reverse=True)
    first = page.all("a", cls="feature-row")[0]["href"]
    assert "open" in parse((await client.get(first)).text).one("details", cls="label-form").attributes


async def test_an_empty_queue_says_how_to_make_an_index(client: httpx.AsyncClient, engine: AsyncEngine) -> None:
    assert "Nothing to label yet" in (await client.get("/label")).text
    await make_sae(engine, slug="made")
    assert "No such SAE" in (await client.get("/label?sae=nix")).text


async def test_after_a_label_comes_the_next_feature_of_the_queue_until_none_is_left(
    client: httpx.AsyncClient, made: Synthetic, base: str
) -> None:
    rows = sorted(made.features.rows(), key=lambda row: (row.max, row.number), reverse=True)
    left = [row.number for row in rows]

    def links(page: Element) -> list[str]:
        return [link["href"] for link in page.all("a", data_key="n")]

    for here in [left[1], left[0], *left[5:], *left[2:5]]:
        place = left.index(here)
        left.remove(here)
        following = [f"{base}/features/{number}?label=1" for number in [*left[place:], *left][:1]]
        page = parse((await client.get(f"{base}/features/{here}?label=1")).text)
        assert "autofocus" in page.one("textarea", id="explanation").attributes
        assert links(page) == following
        panel = parse((await client.post(f"{base}/features/{here}/labels", data=WRITTEN, headers=HTMX)).text)
        assert links(panel) == following
        assert all("autofocus" in link.attributes for link in panel.all("a", data_key="n"))
    assert "Every feature of this SAE has a label now" in panel.text
    assert not links(parse((await client.get(f"{base}/features/{here}")).text))


async def test_the_first_page_and_the_queue_keep_the_sae_that_was_looked_at_last(
    client: httpx.AsyncClient, engine: AsyncEngine
) -> None:
    for slug in ("older", "newer"):
        await make_sae(engine, slug=slug)
    await make_sae(engine, slug="bare", publish=False)

    async def shown() -> set[str]:
        pages = [parse((await client.get(address)).text) for address in ("/", "/label")]
        rows = [row["href"].split("/")[2] for page in pages for row in page.all("a", cls="feature-row")]
        assert pages[1].one("select", id="sae").one("option", selected=None)["value"] == rows[-1]
        return set(rows)

    assert await shown() == {"newer"}
    page = await client.get("/saes/older/features/3")
    assert await shown() == {"older"}
    await client.get("/saes/newer")
    assert await shown() == {"newer"}
    again = await client.get("/saes/older/features/3", headers={"If-None-Match": page.headers["ETag"]})
    assert again.status_code == 304
    assert await shown() == {"older"}
    await client.get("/label?sae=newer")
    assert await shown() == {"newer"}
    await client.get("/saes/bare")  # nothing of it can be shown
    await client.get("/api/v1/saes/older")
    assert await shown() == {"newer"}


async def test_saving_one_field_leaves_the_others(client: httpx.AsyncClient, made: Synthetic, base: str) -> None:
    api = f"/api/v1/saes/{made.sae.slug}/features/5/labels"
    draft = {"explanation": "water", "interpretability": 2, "confidence": 4, "status": "draft"}
    await client.put(f"{api}/mine", json=draft)
    version = form(parse((await client.get(f"{base}/features/5")).text))["version"]
    sent = {"version": version, "explanation": "rivers", "status": "draft"}
    await client.post(f"{base}/features/5/labels", data=sent)
    [label] = (await client.get(api)).json()["labels"]
    assert [label[name] for name in draft] == ["rivers", 2, 4, "draft"]

    version = form(parse((await client.get(f"{base}/features/5")).text))["version"]
    await client.post(f"{base}/features/5/labels", data={"version": version})
    [label] = (await client.get(api)).json()["labels"]
    assert [label[name] for name in draft] == ["rivers", 2, 4, "submitted"]


@pytest.mark.parametrize("headers", [{}, HTMX], ids=["page", "htmx"])
async def test_a_double_click_saves_once(client: httpx.AsyncClient, base: str, headers: dict[str, str]) -> None:
    for _ in range(2):
        answer = await client.post(f"{base}/features/5/labels", data=WRITTEN, headers=headers)
        assert answer.status_code == (200 if headers else 303)
    assert form(parse((await client.get(f"{base}/features/5")).text))["version"] == "1"


async def test_who_may_not_label_sees_no_form(client: httpx.AsyncClient, base: str, engine: AsyncEngine) -> None:
    for role, forms in ((Role.viewer, 0), (Role.labeller, 1)):
        person = await sign_in(engine, role.name, role)
        page = parse((await client.get(f"{base}/features/5", headers=person.headers)).text)
        assert len(page.all("details", cls="label-form")) == forms


async def test_what_is_typed_on_a_features_page_is_kept_until_it_is_saved(
    client: httpx.AsyncClient, made: Synthetic
) -> None:
    page = f"/saes/{made.sae.slug}/features/5"
    draft = parse((await client.get(page)).text).one("form", **{"data-draft": f"/api/v1{page}/labels/mine/draft"})
    etag = (await client.get(page)).headers["etag"]
    typed = {"explanation": "half a tho", "categories": ["water"], "confidence": 2}
    assert (await client.put(draft["data-draft"], json=typed)).status_code == 204
    back = await client.get(page, headers={"If-None-Match": etag})
    assert back.status_code == 200
    form = parse(back.text).one("details", **{"class": "label-form"})
    assert "open" in form.attributes
    assert "half a tho" in form.text
    assert "This is what you were typing" in form.text
    assert "half a tho" not in (await client.get(f"/saes/{made.sae.slug}/features/6")).text
    assert (await client.put(draft["data-draft"], json={})).status_code == 204  # it was emptied: no draft is left
    assert "This is what you were typing" not in (await client.get(page)).text
    await client.put(draft["data-draft"], json=typed)
    await client.post(f"{page}/labels", data={"explanation": "a thought", "status": "submitted"})
    after = (await client.get(page)).text
    assert "half a tho" not in after
    assert "a thought" in after
