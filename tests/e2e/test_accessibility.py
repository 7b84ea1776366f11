"""What axe-core cannot tell of accessibility (test_every_page.py runs it): keyboard, motion, colours."""

import asyncio
import re
from itertools import pairwise
from typing import Any

import pytest
from playwright.async_api import Browser, BrowserContext, Page, Route, expect

from tests.e2e.pages import MOVING, PAGES, Site, visit

pytestmark = [pytest.mark.browser, pytest.mark.read_only]

WIDTHS = (1440, 390)
SAME_LINE = 24
"""Pixels by which things on one line may differ in height."""
FOCUSED = """() => {
  const element = document.activeElement;
  if (!element.closest("main")) return null;
  const drawn = element.matches(".choices input") ? element.nextElementSibling : element;
  const { left, top, bottom } = drawn.getBoundingClientRect();
  const there = document.elementFromPoint(left + 4, (top + bottom) / 2); // nothing may lie over it
  return {
    html: element.outerHTML.slice(0, 200),
    column: element.closest(".rail-first, .rail-second, .feature-main, .page-head")?.className ?? "",
    top: top + scrollY,
    seen: getComputedStyle(drawn).outlineStyle === "solid" && Boolean(drawn.contains(there) || there?.contains(drawn)),
  };
}"""
LINES = """(elements) => elements.map(getComputedStyle)
  .map((style) => `${style.textDecorationLine} ${style.textDecorationStyle}`)"""
WATCH_SHIFT = """() => {
  window.shift = 0;
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shift += entry.value;
  }).observe({ type: "layout-shift" });
}"""


# --- keyboard


async def test_skip_link_is_first_and_moves_focus_past_the_header(page: Page, site: Site) -> None:
    await page.goto(f"{site.url}/saes/{site.names['sae']}/features")
    await page.keyboard.press("Tab")
    skip = page.locator(".skip")
    await expect(skip).to_be_focused()
    await expect(skip).to_be_in_viewport(ratio=1)
    await page.keyboard.press("Enter")
    await page.keyboard.press("Tab")
    assert await page.evaluate("document.activeElement.closest('main') !== null")


@pytest.mark.parametrize("width", WIDTHS)
async def test_focus_order_of_the_feature_page_goes_down_and_focus_is_visible(
    browser: Browser, site: Site, width: int
) -> None:
    context = await browser.new_context(viewport={"width": width, "height": 900}, reduced_motion="reduce")
    page = await context.new_page()
    await page.goto(f"{site.url}/saes/{site.names['sae']}/features/1?label=1")
    await page.locator("main").focus()
    stops: list[dict[str, Any]] = []
    while True:
        await page.keyboard.press("Tab")
        stop = await page.evaluate(FOCUSED)
        if stop is None:
            break
        stops.append(stop)
        assert stop["seen"], stop
    assert len(stops) > 50
    columns = {stop["column"] for stop in stops} if width == 1440 else {""}
    for column in columns:
        tops = [stop["top"] for stop in stops if stop["column"].startswith(column)]
        rises = [(before, after) for before, after in pairwise(tops) if after < before - SAME_LINE]
        assert not rises, column


async def test_closing_the_keys_dialog_restores_focus(page: Page, site: Site) -> None:
    await page.goto(site.url)
    opener = page.locator("[data-open-keys]")
    await opener.focus()
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("button", name="Close")).to_be_focused()
    await page.keyboard.press("Escape")
    await expect(opener).to_be_focused()
    await page.keyboard.press("j")
    row = page.locator("[data-row]").first
    await expect(row).to_be_focused()
    await page.keyboard.press("?")
    await page.get_by_role("button", name="Close").click()
    await expect(row).to_be_focused()


async def test_switching_off_single_keys_applies_to_all_tabs(page: Page, context: BrowserContext, site: Site) -> None:
    other = await context.new_page()
    for tab in (page, other):
        await tab.goto(f"{site.url}/saes/{site.names['sae']}/features/2")
    await page.keyboard.press("?")
    await page.get_by_label("Single keys work").uncheck()
    await page.keyboard.press("Escape")
    await other.wait_for_function("localStorage.getItem('keys') === 'off'")  # tabs are processes: it takes a moment
    for tab in (page, other):
        for key in ("l", "j", "]", "?"):
            await tab.keyboard.press(key)
        await expect(tab.locator(":is(a, textarea, dialog *):focus")).to_have_count(0)
        assert tab.url.endswith("/features/2")
    await page.reload()
    await page.keyboard.press("l")
    await expect(page.locator("#explanation")).not_to_be_focused()
    await page.locator("[data-open-keys]").click()
    await expect(page.get_by_label("Single keys work")).not_to_be_checked()
    await page.get_by_label("Single keys work").check()
    await page.keyboard.press("Escape")
    await other.wait_for_function("localStorage.getItem('keys') !== 'off'")
    await other.keyboard.press("l")
    await expect(other.locator("#explanation")).to_be_focused()


async def test_token_tooltip_is_hoverable_and_dismissible(page: Page, site: Site) -> None:
    await page.goto(site.url + "/saes/{sae}/features/1/examples/{sequence}".format_map(site.names))
    token, tip = page.locator(".strip .t.top").first, page.locator("#tip")
    await token.hover()
    await expect(tip).to_be_visible()
    box = await tip.bounding_box()
    assert box is not None
    await page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, steps=10)
    await expect(tip).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(tip).to_be_hidden()


# --- motion, colours, long work


async def test_something_moves_where_motion_is_not_reduced(page: Page, site: Site) -> None:
    await page.goto(site.url)
    assert await page.evaluate(MOVING), "the walk over every page would see what does move"


async def test_shades_differ_in_forced_colours_mode(browser: Browser, site: Site) -> None:
    context = await browser.new_context(forced_colors="active")
    page = await context.new_page()
    await page.goto(site.url + "/saes/{sae}/features/1/examples/{sequence}".format_map(site.names))
    lines = await page.evaluate(
        """() => [1, 3, 5].map((shade) => {
          const token = document.querySelector(".strip .t");
          token.className = `t a${shade}`;
          const { textDecorationLine, textDecorationStyle, textDecorationThickness } = getComputedStyle(token);
          return [textDecorationLine, textDecorationStyle, textDecorationThickness].join(" ");
        })"""
    )
    assert lines == ["underline dotted 1px", "underline solid 1px", "underline solid 3px"]


async def test_pinned_features_differ_in_more_than_hue(page: Page, site: Site) -> None:
    await visit(page, site, next(each for each in PAGES if each.name == "probe, result"))
    for i in range(1, 6):
        await page.locator(".ranks [data-pin]").nth(i).click()
    names = page.locator(".probe-key a")
    await expect(names).to_have_count(6)
    drawn = await names.evaluate_all(LINES)
    assert len(set(drawn)) == 6
    shared = await page.locator(".strip .t.pinned").evaluate_all(LINES)
    assert shared
    assert set(shared) <= set(drawn)


@pytest.mark.parametrize(
    "name", ["features", "probe", pytest.param("feature, label form", marks=pytest.mark.own_database)]
)
async def test_slow_requests_report_progress_without_layout_shift(page: Page, site: Site, name: str) -> None:
    await visit(page, site, next(each for each in PAGES if each.name == name))
    go = asyncio.Event()

    async def wait(route: Route) -> None:
        await go.wait()
        await route.continue_()

    status = page.locator("#status")
    await page.evaluate(WATCH_SHIFT)
    match name:
        case "features":
            await page.route("**/features?*", wait)
            await page.fill("#q", "violin")
            await expect(status).to_have_text(re.compile("Searching the features · 1 s"))
        case "probe":
            await page.route("**/probe", wait)
            await page.get_by_role("button", name="Probe", exact=True).click()
            await expect(status).to_have_text(re.compile("Reading the prompt.* · 1 s"))
        case _:
            await page.route("**/labels", wait)
            await page.fill("#explanation", "rivers")
            await page.get_by_role("button", name="Save label").click()
            await expect(status).to_have_text(re.compile("Saving the label · 1 s"))
    await expect(status).to_be_in_viewport(ratio=1)
    await expect(page.locator("[aria-busy=true]")).to_have_count(1)
    go.set()
    await expect(status).to_have_text(
        {"features": re.compile("of 60"), "probe": re.compile("active")}.get(name, "Saved.")
    )
    await expect(status).to_have_class("visually-hidden")
    await expect(page.locator("[aria-busy=true]")).to_have_count(0)
    assert await page.evaluate("shift") < 0.02
