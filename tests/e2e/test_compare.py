"""From a feature to its counterpart and its parts in a wider SAE, by clicks, by keys, and without JavaScript."""

import pytest
from playwright.async_api import Browser, Page, expect
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.comparing import NARROW, WIDE, make_pair
from tests.e2e.conftest import Problems
from tests.e2e.test_pages import DRAWN, OVERFLOW, SHIFT

pytestmark = [pytest.mark.browser, pytest.mark.read_only]


@pytest.fixture(scope="module", autouse=True)
async def _pair(module_engine: AsyncEngine) -> None:
    await make_pair(module_engine)


async def test_feature_page_leads_to_the_features_that_split_it_and_back(page: Page, live: str) -> None:
    await page.goto(f"{live}/saes/{NARROW}/features/12")
    others = page.get_by_role("region", name="In other SAEs of this model")
    await expect(others).to_contain_text("split into")
    await others.get_by_role("link", name="split into").click()
    await page.wait_for_url(f"{live}/compare?a={NARROW}&b={WIDE}&feature=12")
    parts = page.locator("section[aria-labelledby=parts] .relative")
    await expect(page.locator("#parts + p")).to_contain_text("of its tokens")
    number = await parts.first.locator(".pair-number").inner_text()
    assert await parts.count() > 1

    line = page.get_by_role("region", name=f"of {WIDE}").locator(".example-line").first
    await line.click()  # examples open in place here too
    await expect(page.locator(".beside .strip")).to_be_visible()
    await parts.first.click()
    await page.wait_for_url(f"{live}/compare?a={WIDE}&b={NARROW}&feature={number}")
    await page.get_by_role("link", name="part of feature 12").click()
    await page.locator("section[aria-labelledby=parents] .relative").click()
    await page.wait_for_url(f"{live}/compare?a={NARROW}&b={WIDE}&feature=12")


async def test_overview_leads_to_the_features_that_another_sae_splits(page: Page, live: str) -> None:
    await page.goto(f"{live}/saes/{NARROW}")
    await page.get_by_role("navigation", name="This SAE").get_by_role("link", name="Compare").click()
    await page.select_option("#b", WIDE)
    await page.get_by_role("button", name="Compare").click()
    await page.wait_for_url(f"{live}/compare?a={NARROW}&b={WIDE}")
    await page.wait_for_function(DRAWN)
    split = page.get_by_role("region", name="Split by …60")
    await split.get_by_role("link", name="All 9", exact=True).click()
    await expect(page.locator("h1")).to_have_text("Split by …60")
    await page.wait_for_load_state()  # its scripts hear the keys
    await page.keyboard.press("j")
    await expect(page.locator(".pair").first).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.locator("#parts")).to_have_text("Its parts in …60")
    await page.wait_for_load_state()
    first = page.url
    await page.keyboard.press("]")
    await page.wait_for_url(lambda url: url != first)
    await page.keyboard.press("[")
    await page.wait_for_url(first)


async def test_more_button_extends_a_long_list_in_place(page: Page, live: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.web.pages.compare._PAGE", 20)
    address = f"{live}/compare?a={NARROW}&b={WIDE}&show=only-b"
    await page.goto(address)
    await expect(page.locator(".pair")).to_have_count(20)
    await page.locator("[data-more]").click()
    await expect(page.locator(".pair")).to_have_count(35)
    await expect(page).to_have_url(address)


@pytest.mark.parametrize(("width", "theme"), [(1440, "light"), (390, "dark")])
async def test_compare_pages_have_no_console_errors_shifts_or_horizontal_scroll(
    browser: Browser, live: str, problems: Problems, width: int, theme: str
) -> None:
    context = await browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme)
    page = await context.new_page()
    problems.watch(page)
    both = f"/compare?a={NARROW}&b={WIDE}"
    addresses = ["/compare", f"/compare?a={WIDE}", both, f"{both}&feature=12", f"{both}&feature=23"]
    addresses += [f"{both}&show=only-b", f"{both}&show=split-a", f"/saes/{NARROW}/features/12"]
    for address in addresses:
        response = await page.goto(live + address)
        assert response is not None
        assert response.status == 200, address
        await page.wait_for_function(DRAWN)
        assert await page.evaluate(SHIFT) < 0.02, address
        assert await page.evaluate(OVERFLOW) == 0, address


async def test_compare_works_without_javascript(browser: Browser, live: str) -> None:
    context = await browser.new_context(java_script_enabled=False)
    page = await context.new_page()
    await page.goto(f"{live}/compare")
    await page.select_option("#a", NARROW)
    await page.select_option("#b", WIDE)
    await page.get_by_role("button", name="Compare").click()
    await expect(page.locator(".chart-data").first).to_be_visible()
    await page.locator("a.pair-split").first.click()
    await page.locator(".relative").first.click()
    await expect(page.locator("#parents")).to_be_visible()
