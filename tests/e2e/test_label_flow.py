"""Labelling a set by keys alone: categories, text, drafts that survive a reload, taking back, skipping."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from playwright.async_api import Page, expect
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.main import create_app
from app.settings import Settings
from tests.e2e.conftest import Problems
from tests.factories import make_sae

pytestmark = pytest.mark.browser


async def test_a_set_is_labelled_by_keys(
    page: Page, serve: Callable[[FastAPI], str], engine: AsyncEngine, database_url: str, tmp_path: Path
) -> None:
    made = await make_sae(engine)
    url = serve(create_app(Settings(database_url=database_url, home=tmp_path, author="ada")))
    rules = {
        "sae": made.sae.slug,
        "name": "x",
        "scope": {"features": [1, 2, 3]},
        "guideline": {"categories": ["a", "b"]},
    }
    async with httpx.AsyncClient(base_url=url) as client:
        found = (await client.post("/api/v1/labelsets", json=rules)).json()
    await page.goto(f"{url}/labelsets/{found['id']}")
    await page.keyboard.press("l")
    await page.wait_for_url("**/label?feature=*")
    title = page.locator("#flow h1")
    first = await title.inner_text()
    await page.keyboard.press("2")
    await page.keyboard.press("Enter")
    await expect(title).not_to_have_text(first)
    await expect(page.locator("#flow-progress")).to_contain_text("1 labelled")

    second = await title.inner_text()
    await page.keyboard.press("e")
    await page.keyboard.type("rivers")
    await expect(page.locator("[data-draft-state]")).to_have_text("Kept for you.")
    await page.reload()
    await expect(title).to_have_text(second)
    await expect(page.locator("#explanation")).to_have_value("rivers")
    await title.focus()
    await page.keyboard.press("s")
    await expect(title).not_to_have_text(second)
    await page.keyboard.press("u")
    await expect(title).to_have_text(second)
    await expect(page.locator(".flow > .notice")).to_contain_text("Taken back")
    await page.keyboard.press("e")
    await page.keyboard.press("Enter")
    await expect(page.locator("#flow-progress")).to_contain_text("2 labelled")


async def test_the_next_feature_is_asked_for_again_once_its_lease_may_have_ended(
    page: Page, serve: Callable[[FastAPI], str], engine: AsyncEngine, database_url: str, tmp_path: Path
) -> None:
    made = await make_sae(engine)
    url = serve(create_app(Settings(database_url=database_url, home=tmp_path, author="ada")))
    rules = {"sae": made.sae.slug, "name": "x", "scope": {"features": [1, 2, 3]}}

    async def leases(statement: str = "SELECT feature, person_id FROM label_lease ORDER BY leased_at") -> list[Any]:
        async with engine.begin() as connection:
            result = await connection.execute(text(statement))
            return list(result) if result.returns_rows else []

    async with httpx.AsyncClient(base_url=url) as client:
        found = (await client.post("/api/v1/labelsets", json=rules)).json()
    await page.clock.install()
    await page.goto(f"{url}/labelsets/{found['id']}")
    await page.keyboard.press("l")
    await page.wait_for_url("**/label?feature=*")
    assert len(await leases()) == 1  # a page that is only opened holds one
    async with page.expect_response("**/next"):
        await page.keyboard.press("e")
        await page.keyboard.type("rivers")
    (_, me), (loaded, _) = await leases()
    other = "INSERT INTO person (name, is_account) VALUES ('grace', false)"
    await leases(other)
    await leases(
        f"UPDATE label_lease SET person_id = (SELECT id FROM person WHERE name = 'grace') WHERE feature = {loaded}"
    )
    await page.clock.fast_forward("11:00")
    await page.keyboard.press("Enter")
    await expect(page.locator("#flow-progress")).to_contain_text("1 labelled")
    await expect(page.locator("#flow h1")).not_to_have_text(f"Feature {loaded}")
    await expect(page.locator(".notice")).to_have_count(0)
    assert (loaded, me) not in await leases()


async def test_what_is_typed_on_a_features_page_is_there_again_and_a_refusal_is_said(
    page: Page,
    problems: Problems,
    serve: Callable[[FastAPI], str],
    engine: AsyncEngine,
    database_url: str,
    tmp_path: Path,
) -> None:
    made = await make_sae(engine)
    url = serve(create_app(Settings(database_url=database_url, home=tmp_path, author="ada")))
    feature = f"{url}/saes/{made.sae.slug}/features/5"
    await page.goto(feature)
    await page.keyboard.press("l")
    async with page.expect_response("**/draft"):
        await page.keyboard.type("rivers")
    await expect(page.locator("[data-draft-state]")).to_have_text("Kept for you.")
    await page.keyboard.type(" and lakes")  # and away before it is kept
    await page.goto(f"{url}/label")
    async with httpx.AsyncClient() as client:  # what the page sent as it went is on its way yet
        for _ in range(100):
            if "rivers and lakes" in (await client.get(feature)).text:
                break
    await page.goto(feature)
    await expect(page.locator("#explanation")).to_have_value("rivers and lakes")
    await page.keyboard.press("l")
    async with page.expect_response("**/labels"):
        await page.keyboard.press("Control+Enter")
    await page.goto(feature)
    await expect(page.locator("#label-list")).to_contain_text("rivers and lakes")
    await expect(page.locator("[data-draft-state]")).to_have_text("")

    await page.locator("summary", has_text="Add a comment").click()
    await expect(page.locator("#comment-new-text")).to_be_focused()
    await page.keyboard.type("j, k and n are letters here")
    await expect(page.locator("#comment-new-text")).to_have_value("j, k and n are letters here")
    await page.keyboard.press("Escape")

    refusal = {"status": 401, "title": "Sign in", "detail": "Nobody is signed in."}
    await page.route("**/draft", lambda route: route.fulfill(status=401, json=refusal))
    await page.keyboard.press("l")
    await page.keyboard.type("!")
    await expect(page.locator("[data-draft-state]")).to_have_text("Not kept: Nobody is signed in. Sign in")
    link = page.locator("[data-draft-state] a")
    problems.forgive("401")
    await expect(link).to_have_attribute("href", f"/sign-in?next=%2Fsaes%2F{made.sae.slug}%2Ffeatures%2F5")
