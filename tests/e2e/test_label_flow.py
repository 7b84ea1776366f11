"""Labelling a set by keys alone: categories, text, drafts that survive a reload, taking back, skipping."""

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from playwright.async_api import Page, expect
from sqlalchemy.ext.asyncio import AsyncEngine

from app.main import create_app
from app.settings import Settings
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
