"""Pages of text sets."""

import httpx
from sqlalchemy.ext.asyncio import AsyncSession

from tests.factories import Synthetic
from tests.text_sets import make_pairs, make_text_set
from tests.web.html import parse


async def test_a_file_becomes_a_set_and_mistakes_keep_the_form(client: httpx.AsyncClient) -> None:
    data = {"name": "reviews", "text": "review", "label": "stars", "description": "What people <i>said</i>"}
    wrong = await client.post("/textsets", data=data, files={"file": ("x.csv", b"text\na\n")})
    assert wrong.status_code == 422
    page = parse(wrong.text)
    assert "no column “review”" in page.one("p", role="alert").text
    assert page.one("input", name="label").attributes["value"] == "stars"
    assert (await client.post("/textsets", data=data)).status_code == 422
    made = await client.post("/textsets", data=data, files={"file": ("x.csv", b"review,stars\n<b>good</b>,5\nbad,1\n")})
    assert (made.status_code, made.headers["location"]) == (303, "/textsets/reviews")
    shown = await client.get("/textsets/reviews")
    assert "monitors and comparisons need texts in every split" in shown.text
    assert "&lt;b&gt;good&lt;/b&gt;" in shown.text and "What people &lt;i&gt;said" in shown.text
    assert (await client.get("/textsets")).text.count("/textsets/reviews") == 1
    assert (await client.post("/textsets/reviews/delete")).headers["location"] == "/textsets"
    assert (await client.get("/textsets/reviews")).status_code == 404


async def test_a_larger_file_than_other_forms_take_is_read(client: httpx.AsyncClient) -> None:
    content = "\n".join(f"{number} " + "x" * 100 for number in range(20_000)).encode()
    content += b"\n" + b"y" * 1400
    made = await client.post("/textsets", data={"name": "long"}, files={"file": ("x.txt", content)})
    assert made.status_code == 303, made.text[:500]
    page = await client.get("/textsets/long?after=19999")
    assert "y" * 1200 + "…" in page.text and "y" * 1400 in page.text and "all 1,400 characters" in page.text
    too_large = await client.post("/textsets", data={"name": "huge"}, files={"file": ("x.txt", b"x" * 32_000_001)})
    assert too_large.status_code == 413


async def test_texts_are_filtered_paged_and_shown_on_demand(client: httpx.AsyncClient, session: AsyncSession) -> None:
    await make_text_set(session)
    await make_pairs(session)
    await session.commit()
    first = parse((await client.get("/textsets/moods")).text)
    assert len(first.all("div", cls="set-text")) == 50
    rest = parse((await client.get(first.one("a", **{"data-more": None})["href"])).text)
    assert len(rest.all("div", cls="set-text")) == 30
    happy = await client.get("/textsets/moods", params={"label": "happy", "split": "train"})
    labels = {each.text for each in parse(happy.text).all("b", cls="break")}
    assert labels == {"happy"}
    hidden = await client.get("/textsets/pairs")
    assert "they 3 were" not in hidden.text and "may offend" in hidden.text
    shown = parse((await client.get("/textsets/pairs?show=true")).text)
    pairs = list(shown.all("div", cls="set-pair"))
    assert [len(pair.all("div", cls="set-text")) for pair in pairs] == [2] * 12 + [1]


async def test_what_a_set_can_be_used_with_opens_with_its_name_filled_in(
    client: httpx.AsyncClient, made: Synthetic, session: AsyncSession
) -> None:
    await make_text_set(session)
    await make_pairs(session)
    await session.commit()
    for name, expected in (("moods", ["Compare", "Monitor"]), ("pairs", ["Compare", "Monitor", "Audit"])):
        links = parse((await client.get(f"/textsets/{name}")).text).one("ul", cls="set-uses").all("a")
        assert [link.text for link in links] == expected
        assert [link.text for link in links] == expected
        for link in links:
            opened = await client.get(link["href"])
            assert opened.status_code == 200, (link.text, opened.text[-800:])
            page = parse(opened.text)
            given = [*page.all("input", value=name), *page.all("option", value=name, selected=None)]
            assert given, link.text
    form = parse((await client.get("/monitors/new?benign=moods:sad&recipe=none")).text)
    assert form.one("input", id="benign")["value"] == "moods:sad"


async def test_a_page_cuts_no_pair(client: httpx.AsyncClient, session: AsyncSession) -> None:
    from app.queries.text_sets import TextItem
    from app.services.actors import Actor
    from app.services.text_set_about import About
    from app.services.text_sets import create_text_set

    items = [TextItem(n, f"t{n}", "train", label=str(n % 3), pair=str(n // 3)) for n in range(60)]
    await create_text_set(session, About(name="triples"), items, actor=Actor("ada"))
    await session.commit()
    first = parse((await client.get("/textsets/triples")).text)
    assert len(first.all("div", cls="set-text")) == 48
    rest = parse((await client.get(first.one("a", **{"data-more": None})["href"])).text)
    assert len(rest.all("div", cls="set-text")) == 12
