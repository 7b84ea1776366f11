"""A label set's dashboard."""

import httpx
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db import create_sessionmaker, transaction
from app.services.actors import Role
from tests.factories import Synthetic
from tests.labelling import CATEGORIES, label, label_together, make_set, sign_up
from tests.web.html import Element, parse

HOSTILE = "<script>alert(1)</script>"


async def page_of(client: httpx.AsyncClient, address: str, **headers: str) -> Element:
    response = await client.get(address, headers=headers)
    assert response.status_code == 200
    assert HOSTILE not in response.text
    return parse(response.text)


async def test_the_dashboard_says_how_a_set_goes(
    client: httpx.AsyncClient, engine: AsyncEngine, made: Synthetic
) -> None:
    of = await make_set(engine, made.sae, categories=(*CATEGORIES, HOSTILE))
    address = f"/labelsets/{of.id}/agreement"
    empty = (await page_of(client, address)).line
    assert "Nobody has labelled the same feature" in empty and "Nothing: no feature is held" in empty

    await label_together(engine, made.sae)
    async with transaction(create_sessionmaker(engine)) as session:
        for person in ("ada", HOSTILE):
            await label(session, made.sae, 19, person, HOSTILE, HOSTILE, interpretability=3)
    page = await page_of(client, address)
    text = page.line
    assert "18 of 24 with 2 labels or more; 6 left" in text
    assert "to Adjudicate" not in text and "5 of 5 features whose labels differ" in text
    measures, per_category, people, pairs = page.all("table")[1:5]
    assert "Categories as sets" in measures.line and "Interpretability 1 to 5" in measures.line
    assert len(measures.all("svg")) == 5
    assert [row.all("th")[0].text for row in per_category.all("tbody")[0].all("tr")] == [*CATEGORIES, HOSTILE]
    assert [row.all("th")[0].line for row in people.all("tbody")[0].all("tr")][:2] == ["ada", "grace"]
    assert "not enough to say: two people answered for only 5 features, and it takes 10" in pairs.line
    assert "Nobody can tell what they respond to 20" in text
    assert "quite another thing" in text

    alone = await page_of(client, f"/labelsets/{of.id}/agreement")
    assert alone.all("a", href=f"/labelsets/{of.id}/adjudicate")
    assert (await client.get("/labelsets/999/agreement")).status_code == 404


async def test_a_labeller_sees_their_own_numbers(
    client: httpx.AsyncClient, engine: AsyncEngine, made: Synthetic
) -> None:
    of = await make_set(engine, made.sae, blind=True)
    await label_together(engine, made.sae)
    linus, headers = await sign_up(engine, "linus the second", Role.labeller)
    address = f"/labelsets/{of.id}/agreement"
    page = await page_of(client, address, **headers)
    assert "You have not labelled in this set yet." in page.line
    assert "grace" not in page.line and "Stuck" not in page.line
    async with transaction(create_sessionmaker(engine)) as session:
        await label(session, made.sae, 0, linus, "mine", "names")
    page = await page_of(client, address, **headers)
    assert "only those that you have labelled" in page.line
    assert "grace" not in page.all("table")[-1].line or "linus the second" in page.all("table")[-1].line
