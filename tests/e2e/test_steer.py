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


STOP_AT_THE_FIRST_TOKEN = """() => new MutationObserver((_changes, observer) => {
  if (!document.querySelector("#result .steer-text .t")) return;
  observer.disconnect();
  const stop = document.querySelector("[data-stop]");
  stop.focus();
  if (stop.checkVisibility()) stop.click();
}).observe(document.getElementById("result"), { childList: true, subtree: true })"""
"""A tiny model has written all its tokens before a test could reach the button."""


async def test_the_keyboard_alone_steers_and_stops(page: Page, site: Site) -> None:
    await page.goto(f"{site.url}/saes/{site.names['live']}/steer?feature=1&tokens=100")
    await page.evaluate(STOP_AT_THE_FIRST_TOKEN)
    await page.locator("#text").fill("times")
    await page.keyboard.press("Control+Enter")
    await expect(page.locator("#result .steer-text .t").first).to_be_visible()
    await expect(page.get_by_role("button", name="Stop")).to_be_hidden()
    assert await page.locator("#result .steer-text .t").count() < 200
