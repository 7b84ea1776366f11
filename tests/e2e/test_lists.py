"""Lists in a real browser: made from a feature's page, put in order, noted, undone, shared; and without JavaScript."""

import re

import pytest
from playwright.async_api import Browser, Locator, Page, expect

from tests.e2e.conftest import Problems
from tests.factories import Synthetic

pytestmark = pytest.mark.browser


def numbers(page: Page) -> Locator:
    return page.locator("#items .feature-number")


async def test_make_fill_order_and_share_a_list(
    page: Page, live: str, made: Synthetic, browser: Browser, problems: Problems
) -> None:
    base = f"{live}/saes/{made.sae.slug}/features"
    await page.goto(f"{base}/7")
    await page.locator(".add-to-list summary").click()
    await page.fill("#list-name", "Rivers & <i>lakes</i>")
    await page.fill("#list-note", "the first")
    await page.get_by_role("button", name="Add", exact=True).click()
    await expect(page.locator("#lists [role=status]")).to_have_text("Added to Rivers & <i>lakes</i>.")
    await expect(page.locator(".add-to-list summary")).to_be_focused()
    for number in (3, 12):
        await page.goto(f"{base}/{number}")
        await page.locator(".add-to-list summary").click()
        await expect(page.locator("#list-name")).to_be_hidden()  # a list is there to be chosen
        await page.get_by_role("button", name="Add", exact=True).click()
        await expect(page.locator(".holding")).to_have_text(re.compile("Rivers"))
    await page.locator(".holding a").click()
    await page.wait_for_url("**/lists/*")  # and its scripts, which keep the focus
    await expect(numbers(page)).to_have_text(["7", "3", "12"])

    await page.get_by_role("button", name="Move feature 12 up").click()
    await expect(numbers(page)).to_have_text(["7", "12", "3"])
    await expect(page.get_by_role("button", name="Move feature 12 up")).to_be_focused()
    await page.locator("#items .feature-row").nth(2).focus()
    await page.keyboard.press("Alt+ArrowUp")
    await expect(numbers(page)).to_have_text(["7", "3", "12"])
    await expect(page.locator("#items .feature-row").nth(1)).to_be_focused()
    await page.keyboard.press("Alt+ArrowUp")
    await expect(numbers(page)).to_have_text(["3", "7", "12"])

    twelfth = page.locator(".list-item").nth(2)
    await twelfth.locator(".note-form summary").click()
    await twelfth.locator("textarea").fill("wide\nand slow")
    await twelfth.locator("textarea").press("Control+Enter")
    await expect(twelfth.locator(".item-text")).to_have_text("wide\nand slow")
    await expect(twelfth.locator(".note-form summary")).to_be_focused()

    await page.get_by_role("button", name="Take feature 7 out").click()
    await expect(numbers(page)).to_have_text(["3", "12"])
    await expect(page.locator("#list-facts")).to_contain_text("2 features")
    await expect(page.get_by_role("button", name="Undo")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(numbers(page)).to_have_text(["3", "7", "12"])
    await expect(page.locator("#list-facts")).to_contain_text("3 features")

    await page.get_by_text("Change name or description").click()
    await page.fill("#name", "Waters")
    await page.get_by_role("button", name="Save", exact=True).click()
    await expect(page.locator("h1")).to_have_text("Waters")

    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await page.get_by_role("button", name="Copy link").click()
    await expect(page.locator("[data-copy-link]")).to_have_text("Link copied")
    link = await page.evaluate("navigator.clipboard.readText()")
    assert link == page.url
    elsewhere = await (await browser.new_context()).new_page()
    problems.watch(elsewhere)
    await elsewhere.goto(link)
    await expect(elsewhere.locator("h1")).to_have_text("Waters")
    await expect(numbers(elsewhere)).to_have_text(["3", "7", "12"])
    await expect(elsewhere.locator(".item-text")).to_have_text(["the first", "wide\nand slow"])


async def test_conflicting_edits_in_two_tabs_show_both_notes(
    page: Page, live: str, made: Synthetic, problems: Problems
) -> None:
    await page.request.post(f"{live}/lists", form={"name": "Rivers", "sae": made.sae.slug, "features": "1,2"})
    await page.goto(f"{live}/lists")
    await page.locator(".list-row").click()
    await expect(numbers(page)).to_have_text(["1", "2"])
    other = await page.context.new_page()
    await other.goto(page.url)
    await other.locator(".note-form summary").first.click()
    await other.locator("textarea[name=note]").first.fill("theirs")
    await other.get_by_role("button", name="Save note").first.click()
    await expect(other.locator(".item-text")).to_have_text("theirs")

    await page.locator(".note-form summary").first.click()
    await page.locator("textarea[name=note]").first.fill("mine")
    await page.get_by_role("button", name="Save note").first.click()
    await expect(page.locator(".item-note [role=alert]")).to_contain_text("While you wrote")
    await expect(page.locator(".item-text")).to_have_text("theirs")
    await expect(page.locator("textarea[name=note]").first).to_have_value("mine")
    await page.get_by_role("button", name="Save note").first.click()
    await expect(page.locator(".item-text")).to_have_text("mine")
    problems.forgive("409")


async def test_scroll_position_is_kept_after_an_edit(page: Page, live: str, made: Synthetic) -> None:
    features = ",".join(map(str, range(60)))
    await page.request.post(f"{live}/lists", form={"name": "All", "sae": made.sae.slug, "features": features})
    await page.goto(f"{live}/lists")
    await page.locator(".list-row").click()
    await page.wait_for_url("**/lists/*")
    down = page.get_by_role("button", name="Move feature 30 down")
    await down.scroll_into_view_if_needed()
    before = await page.evaluate("scrollY")
    assert before > 500
    await down.click()
    await expect(numbers(page).nth(31)).to_have_text("30")
    await expect(down).to_be_focused()
    assert abs(await page.evaluate("scrollY") - before) < 200  # it goes with the feature, and no further
    before = await page.evaluate("scrollY")
    await page.get_by_role("button", name="Take feature 31 out").click()
    await expect(page.get_by_role("button", name="Undo")).to_be_focused()
    assert await page.evaluate("scrollY") == before


async def test_lists_work_without_javascript(browser: Browser, live: str, made: Synthetic, problems: Problems) -> None:
    page = await (await browser.new_context(java_script_enabled=False)).new_page()
    await page.goto(f"{live}/lists")
    await page.fill("#name", "Rivers")
    await page.get_by_role("button", name="Make the list").click()
    await expect(page.locator("h1")).to_have_text("Rivers")
    await expect(page.locator("[data-copy-link]")).to_be_hidden()
    address = page.url
    for number in (3, 5):
        await page.goto(f"{live}/saes/{made.sae.slug}/features/{number}")
        await page.locator(".add-to-list summary").click()
        await page.get_by_role("button", name="Add", exact=True).click()
        await page.locator(".holding a").click()
    await page.get_by_role("button", name="Move feature 5 up").click()
    await expect(numbers(page)).to_have_text(["5", "3"])
    await page.locator(".note-form summary").first.click()
    await page.locator("textarea[name=note]").first.fill("wide")
    await page.get_by_role("button", name="Save note").first.click()
    await expect(page.locator(".item-text")).to_have_text("wide")
    await page.get_by_role("button", name="Take feature 5 out").click()
    await page.get_by_role("button", name="Take it out").click()
    await expect(numbers(page)).to_have_text(["3"])
    await page.get_by_role("link", name="Delete").click()
    await page.get_by_role("button", name="Delete the list").click()
    await expect(page).to_have_url(f"{live}/lists")
    response = await page.goto(address)
    assert response is not None
    assert response.status == 404
