"""Features by example in a real browser, over a real tiny model, SAE and inference service."""

import re
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.async_api import Browser, Page, expect
from sqlalchemy.ext.asyncio import AsyncEngine

from app.settings import Settings
from tests.app.inference.dictionaries import Dictionary, publish
from tests.e2e.conftest import Problems
from tests.factories import make_sae
from tests.web.serving import serving_with_inference

pytestmark = pytest.mark.browser

TEXT = "It was the best of times, it was the worst of times."


async def test_paste_text_choose_tokens_and_open_a_feature(
    page: Page,
    problems: Problems,
    browser: Browser,
    engine: AsyncEngine,
    settings: Settings,
    dictionary: Dictionary,
) -> None:
    sae = await publish(engine, dictionary)
    with serving_with_inference(settings, dictionary) as site:
        address = f"{site}/saes/{sae.slug}/features/by-example"

        await page.goto(f"{site}/saes/{sae.slug}/features")
        await page.get_by_role("link", name="search by example").click()
        await page.wait_for_url(address)  # and its scripts, which hear the keys
        assert await page.input_value("#max_density") == "0.01"

        # The default range leaves nothing of this dense little SAE; widening it searches again automatically.
        await page.keyboard.press("/")
        await page.keyboard.type(TEXT)
        await page.keyboard.press("Control+Enter")
        await expect(page.locator("#found .empty")).to_contain_text("widen the range")
        await page.select_option("#max_density", "")
        rows = page.locator("#found [data-row]")
        await expect(rows).not_to_have_count(0)
        boxes = page.locator(".pick input")
        await expect(page.locator("#example-tokens + p")).to_contain_text("none chosen")
        assert urlsplit(page.url).query == ""

        # Tokens are chosen by the keyboard too, and the focus stays.
        await boxes.nth(3).focus()
        await page.keyboard.press("Space")
        await expect(page.locator("#example-tokens + p")).to_contain_text("1 of")
        await expect(boxes.nth(3)).to_be_focused()
        await expect(boxes.nth(3)).to_be_checked()
        await page.locator(".pick").nth(5).click()
        await expect(page.locator("#example-tokens + p")).to_contain_text("2 of")

        # With the text in the address, the result can be shared: it is there without JavaScript too.
        await page.get_by_label("Keep the text in the address").check()
        await expect(page).to_have_url(re.compile(r"\?run=1&"))
        assert parse_qs(urlsplit(page.url).query)["text"] == [TEXT]
        assert len(parse_qs(urlsplit(page.url).query)["token"]) == 2
        await expect(rows).not_to_have_count(0)
        plain = await browser.new_context(java_script_enabled=False)
        shared = await plain.new_page()
        await shared.goto(page.url)
        assert await shared.locator("[data-row]").count() == await rows.count()
        await shared.locator(".pick").nth(7).click()
        await shared.get_by_role("button", name="Find features by the chosen tokens").click()
        await expect(shared.locator("#example-tokens + p")).to_contain_text("3 of")
        await plain.close()

        await page.get_by_role("button", name="Choose none").click()
        await expect(page.locator("#example-tokens + p")).to_contain_text("none chosen")
        await page.locator("h1").click()
        for _ in range(2):
            await page.keyboard.press("j")
        await expect(rows.nth(1)).to_be_focused()
        await page.keyboard.press("k")
        await expect(rows.nth(0)).to_be_focused()

        # What goes wrong stands in place of the result, and the text stays.
        await page.select_option("#min_density", "0.1")
        await page.select_option("#max_density", "0.01")
        await expect(page.locator("#found [role=alert]")).to_contain_text("swap the two")
        problems.forgive("422")
        await page.select_option("#min_density", "")
        await page.select_option("#max_density", "")
        await expect(rows).not_to_have_count(0)
        number = await rows.first.locator(".feature-number").inner_text()
        await page.locator("h1").click()
        await page.keyboard.press("j")
        await page.keyboard.press("Enter")
        await expect(page).to_have_url(f"{site}/saes/{sae.slug}/features/{number}")


async def test_keys_move_over_cards_and_a_contradictory_filter_replaces_them_with_an_error(
    page: Page, problems: Problems, live: str, engine: AsyncEngine
) -> None:
    await make_sae(engine, slug="wide", features=70)
    await page.goto(f"{live}/saes/wide/features?sort=index")
    await page.get_by_role("link", name="cards").click()
    await page.wait_for_url("**&view=cards")
    cards = page.locator("a.feature-card")
    await expect(cards).to_have_count(50)
    for _ in range(50):
        await page.keyboard.press("j")
    await page.keyboard.press("j")
    await expect(cards).to_have_count(70)
    await page.set_viewport_size({"width": 390, "height": 800})
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")

    await page.select_option("#min_density", "0.1")
    await expect(page).to_have_url(f"{live}/saes/wide/features?sort=index&view=cards&min_density=0.1")
    await page.select_option("#max_density", "0.001")
    await expect(page.locator("#results [role=alert]")).to_contain_text("swap the two")
    await expect(cards).to_have_count(0)
    await expect(page.locator("#notice")).to_be_empty()
    problems.forgive("422")
    await page.select_option("#max_density", "")
    await expect(cards.first).to_be_visible()

    await page.fill("#q", "zzz")
    await expect(page.locator("#results .empty")).to_be_visible()
    await page.locator("h1").click()
    await page.keyboard.press("/")
    await expect(page.locator("#q")).to_be_focused()
