"""Pages of audits: what a run found, in words, charts and tables."""

import re

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from tests.audits import HOSTILE, add_audit, audited
from tests.factories import Synthetic, add_label, add_run
from tests.web.html import parse


@pytest.fixture
async def audit(session: AsyncSession, made: Synthetic) -> str:
    """The address of an audit's page."""
    await add_label(session, made.sae, 1, "Words for women")
    run = await add_run(session, made.sae)
    number = await add_audit(session, made.sae, run.id)
    await session.commit()
    return f"/audits/{number}"


async def test_the_page_shows_everything_that_was_found(
    client: httpx.AsyncClient, audit: str, made: Synthetic, engine: AsyncEngine
) -> None:
    response = await client.get(audit)
    page = parse(response.text)
    assert HOSTILE not in response.text
    words = " ".join(page.text.split())
    assert (
        "The model finds the stereotyping sentence likelier in 60.0 % (55.0 % to 65.0 %) of 400 pairs"
        in words.replace("\u202f", " ")
    )
    assert "Words for women" in words
    assert "only the token “<u>she”" in words
    assert all(name in words for name in ("random features, 2", "trained on balanced texts", "Only pairs in English."))
    assert len(page.all("details", cls="audit-pair")) == 3
    assert not any("open" in pair.attributes for pair in page.all("details", cls="audit-pair")), "behind a click"
    assert page.one("a", href=f"/saes/{made.sae.slug}/features/1").text == "1"
    charts = re.findall(r'<circle class="interval-value" cx="([\d.]+)%"', response.text)
    assert len(charts) == 3 + 5
    assert all(0 <= float(place) <= 100 for place in charts)
    asked = (await client.get(f"/saes/{made.sae.slug}/delete")).text
    assert "1 audit made with it stay, without links" in asked
    async with engine.begin() as connection:
        await connection.execute(text("DELETE FROM sae WHERE id = :id"), {"id": made.sae.id})
    gone = parse((await client.get(audit)).text)
    assert "which was deleted" in gone.text
    assert not [link for link in gone.all("a") if link.attributes.get("href", "").startswith("/saes/")]


async def test_the_report_needs_nothing_else(client: httpx.AsyncClient, audit: str) -> None:
    response = await client.get(f"{audit}/report.html")
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert response.text == (await client.get(f"/api/v1{audit}/report.html")).text
    assert HOSTILE not in response.text
    page = parse(response.text)
    assert not page.all("script")
    assert not page.all("link")
    assert "url(" not in response.text
    assert {link["href"] for link in page.all("a")} == {"#main"}
    shown = " ".join(parse((await client.get(audit)).text).one("main").text.split())
    for sentence in (" ".join(one.text.split()) for one in page.all("li")):
        assert sentence in shown


async def test_audits_are_listed_and_deleted(client: httpx.AsyncClient, audit: str, made: Synthetic) -> None:
    listed = parse((await client.get("/audits", params={"sae": made.sae.slug})).text)
    row = listed.one("a", cls="list-row")
    assert row["href"] == audit
    assert "60.0\u202f% (55.0\u202f% to 65.0\u202f%) of 400 pairs" in " ".join(row.text.split(" "))
    assert "crows-pairs" in parse((await client.get(f"{audit}/delete")).text).text
    assert (await client.post(f"{audit}/delete")).headers["location"] == "/audits"
    assert (await client.get(audit)).status_code == 404
    assert "No audit yet" in (await client.get("/audits")).text


async def test_the_form_says_what_is_wrong_and_keeps_what_was_sent(client: httpx.AsyncClient, made: Synthetic) -> None:
    form = parse((await client.get("/audits/new", params={"sae": made.sae.slug, "on": "bbq"})).text)
    sets = {one["value"]: "checked" in one.attributes for one in form.all("input", name="on")}
    assert sets == {"crows-pairs": False, "stereoset": False, "winobias": False, "bbq": True}
    refused = await client.post("/audits", data={"sae": made.sae.slug, "on": "nothing"})
    assert refused.status_code == 404
    assert "nothing" in parse(refused.text).one("p", cls="error").text
    assert parse(refused.text).one("option").text == made.sae.slug
    assert "selected" in parse(refused.text).one("option").attributes


def test_the_made_up_audit_is_one() -> None:
    assert audited().treatments[0].kind == "none"
