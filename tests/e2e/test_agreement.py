"""Adjudication in a real browser: with the keyboard, with votes, and when two reviewers decide at once."""

import re

import pytest
from playwright.async_api import Browser, Page, expect
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.e2e.conftest import Problems
from tests.factories import Synthetic
from tests.labelling import label_together, make_set

pytestmark = pytest.mark.browser


async def test_reviewers_decide_by_keyboard_and_hear_of_each_other(
    page: Page, live: str, engine: AsyncEngine, made: Synthetic, browser: Browser, problems: Problems
) -> None:
    of = await make_set(engine, made.sae)
    await label_together(engine, made.sae)
    base = f"{live}/labelsets/{of.id}/adjudicate"
    await page.goto(f"{live}/labelsets/{of.id}/agreement")
    await page.get_by_role("link", name="Labels that differ").click()
    await page.wait_for_url(base)
    await expect(page.locator(".difference")).to_have_count(5)

    await page.keyboard.press("n")
    await page.wait_for_url(f"{base}/*")
    first = page.url
    other = await (await browser.new_context(java_script_enabled=False)).new_page()
    problems.watch(other)
    await other.goto(first)

    fits = page.locator(".votes button[value='1']").first
    await fits.click()
    await expect(page.locator(".votes [aria-pressed=true]")).to_contain_text("fits 1")
    await page.keyboard.press("2")
    explanation = page.locator("#explanation")
    await expect(explanation).to_have_value("quite another thing")
    await expect(explanation).to_be_focused()
    await explanation.press("Control+Enter")
    await page.wait_for_url(lambda url: url != first)

    await other.locator("#explanation").fill("both are right")
    await other.locator("#note").fill("they are alike")
    await other.get_by_role("button", name="Decide and go to the next").click()
    await expect(other.locator(".decide-form [role=alert]")).to_contain_text("quite another thing")
    await expect(other.locator("#note")).to_have_value("they are alike")
    await other.get_by_role("button", name="Decide and go to the next").click()
    await other.goto(first)
    await expect(other.locator(".decided")).to_contain_text("they are alike")
    await expect(other.locator(".decided summary")).to_have_text("1 earlier")
    await other.locator(".side-foot a").first.click()
    await expect(other.locator("#explanation")).to_have_value(re.compile("words of"))
    await page.goto(f"{base}?show=decided")
    await expect(page.locator(".difference")).to_have_count(1)
    problems.forgive("409")
