"""Steering in a browser: both texts grow, a control is one click away, and a run can be stopped."""

import re

import pytest
import torch
from playwright.async_api import Page, expect
from safetensors.torch import save

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
    await page.get_by_role("button", name="A random direction", exact=True).click()
    await expect(page.locator(".steer-said")).to_contain_text("Control:")
    await expect(page.locator(".steer-text")).to_have_count(3)
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


async def test_strengths_are_swept_and_drawn(page: Page, site: Site) -> None:
    await page.goto(f"{site.url}/saes/{site.names['live']}/steer?feature=1&tokens=6&strengths=1+20")
    await page.locator("#text").fill(PROMPT)
    await page.get_by_role("button", name="Sweep strengths").click()
    await expect(page.locator(".sweep-result .sweep-table tbody tr")).to_have_count(5)
    chart = page.locator(".sweep-result .chart").first
    await chart.scroll_into_view_if_needed()
    await expect(chart.locator(".main-svg").first).to_be_visible()
    await page.get_by_role("link", name="Link to these settings").click()
    await expect(page.locator("#strengths")).to_have_value("1 20")


async def test_features_are_added_with_strengths_of_their_own_range(page: Page, site: Site) -> None:
    await page.goto(f"{site.url}/saes/{site.names['live']}/steer?feature=1&text=times&tokens=4")
    await page.get_by_role("button", name="Add a feature").click()
    second = page.locator("[data-row-of-form]").nth(1)
    await expect(second.locator("[name=feature]")).to_be_focused()
    await page.keyboard.type("5")
    await page.keyboard.press("Tab")
    await expect(second.locator(".steer-marks")).to_contain_text("Feature 5")
    await second.locator("[data-slider]").fill("1")
    maximum = float(await second.locator("[data-marks]").get_attribute("data-maximum") or 0)
    assert float(await second.locator("[name=value]").input_value()) == pytest.approx(maximum, rel=1e-3)
    await page.get_by_role("button", name="Steer", exact=True).click()
    await expect(page.locator(".steer-said")).to_contain_text(re.compile(r"feature 1 .* and\s+feature 5 set to"))
    await second.get_by_role("button", name="Remove this feature").click()
    await expect(page.locator("[data-row-of-form]")).to_have_count(1)
    await expect(page.locator("[name=feature]")).to_be_focused()


async def test_tokens_are_chosen_with_the_keyboard(page: Page, site: Site) -> None:
    await page.goto(f"{site.url}/saes/{site.names['live']}/steer?feature=1&tokens=4")
    await page.locator("#text").fill(PROMPT)
    await page.get_by_role("button", name="Steer", exact=True).click()
    tokens = page.locator(".steer-prompt button")
    await tokens.nth(1).focus()
    await page.keyboard.press("Enter")
    await page.keyboard.press("ArrowRight")
    await page.keyboard.press("ArrowRight")
    await page.keyboard.press("Shift+Enter")
    await expect(page.locator("#at")).to_have_value("2-4")
    await page.keyboard.press("ArrowRight")
    await expect(tokens.nth(4)).to_be_focused()
    await page.locator("#text").press("Control+Enter")
    await expect(page.locator(".steer-said")).to_contain_text("on tokens 2 to 4")
    await expect(page.locator(".steer-prompt [aria-pressed=true]")).to_have_count(3)


async def test_a_vector_is_uploaded(page: Page, site: Site) -> None:
    await page.goto(f"{site.url}/saes/{site.names['live']}/steer?text=times&tokens=4")
    await page.locator("summary", has_text="A direction").click()
    await page.locator("#direction").select_option("vector")
    await page.locator("#direction_value").fill("30")
    content = save({"direction": torch.linspace(-1, 1, 32)})
    file = {"name": "mine.safetensors", "mimeType": "application/octet-stream", "buffer": content}
    await page.locator("#vector_file").set_input_files(file)  # type: ignore[arg-type]  # playwright's own name for it
    await page.get_by_role("button", name="Steer", exact=True).click()
    await expect(page.locator(".steer-said")).to_contain_text("the uploaded direction added")
