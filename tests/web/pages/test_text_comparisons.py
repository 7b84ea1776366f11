"""The form that chooses two sides of texts, the features that distinguish them, and one feature on groups."""

import httpx
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from app.db import create_sessionmaker
from tests.factories import Synthetic
from tests.text_comparisons import make_text_comparison
from tests.text_sets import make_text_set
from tests.web.html import Element, parse
from tests.web.pages.conftest import HTMX


def rows(page: Element) -> list[str]:
    return [row.one("span", cls="feature-number").text for row in page.all("details", cls="contrast-feature")]


async def test_a_comparison_is_read_filtered_and_opened(
    client: httpx.AsyncClient, base: str, made: Synthetic, session: AsyncSession
) -> None:
    number, _ = await make_text_comparison(session, made.sae)
    await session.commit()
    here = f"{base}/compare-texts/{number}"
    response = await client.get(here)
    page = parse(response.text)
    assert "<i>happy" not in response.text
    said = " ".join(page.one("p", cls="lead").text.split())
    assert said == (
        "40 texts of moods:happy against 40 of moods:sad. 4 features differ of the 5 that are active on three texts or "
        "more (q < 0.05), 3 of them in the same direction on held-out texts. Length alone tells the sides apart with "
        "AUROC 0.61 (0.50 to 0.70)."
    )
    assert "A bag of words tells held-out texts apart best" in page.text
    assert "use features to see what differs, not as a classifier" in " ".join(page.text.split())
    assert rows(page) == ["1", "2", "3", "0", "4"]
    tags = {
        row.one("span", cls="feature-number").text: [tag.line for tag in row.all("span", cls="warn")]
        for row in page.all("details", cls="contrast-feature")
    }
    assert any(tag.startswith("only the token") for tag in tags["2"])
    assert "first token" in tags["3"]
    assert {"mostly length", "not on held-out texts"} <= set(tags["0"])
    assert "3 texts that repeat another" in page.text
    listed = page.one("ol", cls="contrast-classifiers").all("li")
    assert "bag of words" in listed[0].text and "1.00" in listed[0].text

    filtered = await client.get(here, params={"direction": "a", "tokens": "no", "differing": "1"}, headers=HTMX)
    assert rows(parse(filtered.text)) == ["1", "0"] and "<html" not in filtered.text
    assert filtered.headers["HX-Push-Url"] == f"{here}?direction=a&differing=1&tokens=no"
    assert rows(parse((await client.get(here, params={"direction": "b", "min_rate": "0.5"})).text)) == ["3"]
    assert rows(parse((await client.get(here, params={"sort": "feature"})).text)) == ["0", "1", "2", "3", "4"]
    assert "No feature passes" in (await client.get(here, params={"direction": "b", "min_rate": "0.9"})).text
    for wrong in ({"sort": "luck"}, {"min_rate": "2"}, {"cursor": "x"}, {"direction": "c"}):
        assert (await client.get(here, params=wrong)).status_code == 422, wrong

    opened = await client.get(f"{here}/features/1", headers=HTMX)
    sides = parse(opened.text).all("section", cls="contrast-side")
    assert [len(side.all("p", cls="contrast-example")) for side in sides] == [1, 1]
    line = parse(opened.text).line
    assert "60.0 points (40.0 to 75.0)" in line and "4.0 times as often" in line
    plain = await client.get(f"{here}/features/1")
    assert (plain.status_code, plain.headers["location"]) == (303, f"{here}?open=1#feature-1")
    whole = parse((await client.get(here, params={"open": "1"})).text)
    assert len(whole.all("section", cls="contrast-side")) == 2
    assert "Examples are kept for the strongest" in (await client.get(f"{here}/features/4", headers=HTMX)).text
    assert (await client.get(f"{here}/features/9", headers=HTMX)).status_code == 404
    for missing in ("99", "0", "99999999999"):
        assert (await client.get(f"{base}/compare-texts/{missing}")).status_code == 404


async def test_offensive_texts_stand_behind_a_click(
    client: httpx.AsyncClient, base: str, made: Synthetic, session: AsyncSession
) -> None:
    number, _ = await make_text_comparison(session, made.sae, offensive=True)
    await session.commit()
    page = parse((await client.get(f"{base}/compare-texts/{number}?open=1")).text)
    hidden = page.all("details", cls="contrast-offensive")
    assert len(hidden) == 2, "words, and the examples of the opened feature"
    assert all("open" not in own.attributes for own in hidden)
    assert not page.all("span", cls="contrast-snippet")
    assert any(own.all("section", cls="contrast-side") for own in hidden)


async def test_a_form_queues_a_comparison_of_two_sides(
    client: httpx.AsyncClient, base: str, made: Synthetic, engine: AsyncEngine
) -> None:
    here = f"{base}/compare-texts"
    assert "No text set yet" in (await client.get(here)).text
    async with create_sessionmaker(engine).begin() as session:
        await make_text_set(session)
    page = parse((await client.get(here, params={"a": "moods:happy"})).text)
    choice = page.one("select", id="a")
    assert [(option["value"], option.line) for option in choice.all("option")][1:] == [
        ("moods", "moods: all texts (80)"),
        ("moods:happy", "moods: happy (40)"),
        ("moods:sad", "moods: sad (40)"),
    ]
    assert [option["value"] for option in choice.all("option") if "selected" in option.attributes] == ["moods:happy"]
    refused = await client.post(here, data={"a": "moods:happy", "b": "moods:happy"})
    assert refused.status_code == 422 and "nothing can distinguish a side from itself" in refused.text
    assert (await client.post(here, data={"a": "moods:happy"})).status_code == 422
    queued = await client.post(here, data={"a": "moods:happy", "b": "moods:sad"})
    assert queued.status_code == 303 and queued.headers["location"].startswith("/runs/")
    async with engine.connect() as connection:
        kind, params = (await connection.execute(text("SELECT kind, params FROM run"))).one()
    assert (kind, params["a"], params["b"]) == ("compare-texts", "moods:happy", "moods:sad")


async def test_a_feature_is_shown_on_the_groups_of_a_set(
    client: httpx.AsyncClient, base: str, made: Synthetic, session: AsyncSession
) -> None:
    assert "No text set was read yet" in (await client.get(f"{base}/features/1/texts")).text
    number, _ = await make_text_comparison(session, made.sae)
    await session.commit()
    page = parse((await client.get(f"{base}/features/1/texts")).text)
    assert "Active on 4 of 80 texts of moods: 5.0 %" in page.line
    cells = [[cell.line for cell in row.all("td")] for row in page.one("tbody").all("tr")]
    assert [row[:2] for row in cells] == [["40", "3"], ["40", "1"]]
    assert page.one("a", cls="contrast-tested")["href"] == f"{base}/compare-texts/{number}?open=1"
    assert (await client.get(f"{base}/features/1/texts?set=none")).status_code == 404
    listed = parse((await client.get(f"{base}/compare-texts")).text)
    assert listed.one("a", cls="contrast-known")["href"] == f"{base}/compare-texts/{number}"
