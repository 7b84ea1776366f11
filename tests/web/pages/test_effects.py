"""The measured effect on a feature's page, in the API and in the list."""

import csv
import io
import json

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from app.queries.effects import put_effects
from tests.effects import effect
from tests.factories import Synthetic, add_run
from tests.web.html import parse

pytestmark = pytest.mark.own_database


@pytest.fixture
async def measured(made: Synthetic, session: AsyncSession) -> None:
    run = (await add_run(session)).id
    await put_effects(session, made.sae.id, run, [effect(3, 3.1, (2.7, 3.6)), effect(4, tokens=0)], {})
    await session.commit()


@pytest.mark.usefixtures("measured")
async def test_a_feature_says_what_its_ablation_does(client: httpx.AsyncClient, base: str) -> None:
    page = parse((await client.get(f"{base}/features/3")).text)
    assert "3.1 × as much as chance, 2.7–3.6; used" in page.one("p", cls="effect-sentence").text
    unknown = parse((await client.get(f"{base}/features/4")).text)
    assert "its effect is not known" in unknown.one("p", cls="effect-sentence").text
    assert not parse((await client.get(f"{base}/features/5")).text).all("p", cls="effect-sentence")


@pytest.mark.usefixtures("measured")
async def test_the_api_gives_the_effect(client: httpx.AsyncClient, base: str) -> None:
    own = (await client.get(f"/api/v1{base}/features/3")).json()["effect"]
    assert own["used"] is True
    assert own["interval"] == pytest.approx([2.7, 3.6])
    assert [point["dose"] for point in own["dose_response"]] == [0.5, 1, 2, 4]
    assert own["promoted"][0]["text"]
    assert (await client.get(f"/api/v1{base}/features/5")).json()["effect"] is None
    listed = (await client.get(f"/api/v1{base}/features?sort=effect&limit=1")).json()["features"]
    assert (listed[0]["index"], listed[0]["effect"]["tokens"]) == (3, 200)
    assert (await client.get(f"/api/v1{base}/map")).json()["effect"][3] == pytest.approx(3.1)


@pytest.mark.usefixtures("measured")
async def test_the_list_filters_by_effect(client: httpx.AsyncClient, base: str) -> None:
    page = parse((await client.get(f"{base}/features?effect=used")).text)
    assert [row.one("span", cls="feature-number").text for row in page.all("a", cls="feature-row")] == ["3"]
    assert "effect 3.1 ×" in " ".join(page.one("a", cls="feature-row").text.split())


@pytest.mark.usefixtures("measured")
async def test_downloads_carry_the_effect(client: httpx.AsyncClient, base: str) -> None:
    address = f"/api/v1{base}/features/export"
    rows = list(csv.DictReader(io.StringIO((await client.get(address)).text)))
    effects = {row["index"]: (row["effect_ratio"][:3], row["effect_used"]) for row in rows}
    assert (effects["3"], effects["4"], effects["5"]) == (("3.1", "True"), ("", "False"), ("", ""))
    lines = (await client.get(f"{address}?format=jsonl&effect=used")).text.splitlines()
    assert [json.loads(line)["effect"]["used"] for line in lines] == [True]


@pytest.mark.usefixtures("measured")
async def test_a_feature_that_was_not_measured_offers_it(client: httpx.AsyncClient, base: str) -> None:
    page = parse((await client.get(f"{base}/features/5")).text)
    section = page.one("section", cls="effect")
    address = section.one("a")["href"]
    assert address.startswith("/runs/new/effects?sae=")
    form = parse((await client.get(address)).text)
    assert form.one("input", name="features")["value"] == "5"
