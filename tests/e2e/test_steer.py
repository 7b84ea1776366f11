"""Steering in a browser: both texts grow, a control is one click away, and a run can be stopped."""

import re

import pytest
from playwright.async_api import Page, expect

from tests.e2e.pages import PROMPT, Site

pytestmark = [pytest.mark.browser, pytest.mark.read_only]


async def test_a_feature_is_steered_and_compared_with_a_random_one(page: Page, site: Site) -> None:
    await page.goto(f"{site.url}/saes/{site.names['live']}/features/1")
    await page.locator("#steer-text").fill(PROMPT)
    await page.get_by_role("button", name="Steer", exact=True).click()
    await expect(page).to_have_url(re.compile(r"/steer\?feature=1&text="))
    await page.locator(".steer-marks .text-button").last.click()
    strength = await page.locator("#value").input_value()
    await page.get_by_role("button", name="Steer", exact=True).click()
    await expect(page.locator(".steer-said")).to_contain_text("set to")
    assert await page.locator(".steer-text").nth(1).text_content()
    await page.get_by_role("button", name="A random direction").click()
    await expect(page.locator(".steer-said")).to_contain_text("Control:")
    await page.get_by_role("link", name="Link to these settings").click()
    await expect(page.locator("#value")).to_have_value(strength)
    await expect(page.locator("#text")).to_have_value(PROMPT)


async def test_the_keyboard_alone_steers_and_stops(page: Page, site: Site) -> None:
    await page.goto(f"{site.url}/saes/{site.names['live']}/steer?feature=1&tokens=100")
    await page.locator("#text").fill("times")
    await page.keyboard.press("Control+Enter")
    await expect(page.locator("#result .steer-text .t").first).to_be_visible()
    stop = page.get_by_role("button", name="Stop")
    if await stop.is_visible():
        await stop.click()
    await expect(stop).to_be_hidden()
