"""One feature in a real browser, over a real model, SAE and activation store: drawing by a click, trying sentences."""

import re
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Page, expect
from sqlalchemy.ext.asyncio import AsyncEngine

from app.settings import Settings
from tests.app.inference.dictionaries import CORPUS, Dictionary, activations, publish
from tests.e2e.conftest import Problems
from tests.factories import Synthetic
from tests.web.serving import serving_with_inference

pytestmark = pytest.mark.browser


@pytest.fixture
async def address(engine: AsyncEngine, settings: Settings, dictionary: Dictionary) -> AsyncIterator[str]:
    """Address of the feature that is active most often."""
    sae = await publish(engine, dictionary, with_store=True)
    number = int(sum((activations(dictionary, text) > 0).sum(dim=0) for text in CORPUS).argmax())
    with serving_with_inference(settings, dictionary) as site:
        yield f"{site}/saes/{sae.slug}/features/{number}"


async def test_click_on_a_histogram_bar_samples_examples_of_its_range(
    page: Page, problems: Problems, address: str
) -> None:
    await page.goto(address)
    chart = page.locator("[data-pick]")
    await chart.scroll_into_view_if_needed()
    await expect(chart.locator(".main-svg").first).to_be_visible()
    tallest = await chart.evaluate("""box => {
      const [bars] = box.data;
      const at = bars.y.indexOf(Math.max(...bars.y));
      const frame = box.getBoundingClientRect();
      const { xaxis, yaxis } = box._fullLayout;
      return {
        x: frame.left + xaxis._offset + xaxis.d2p(bars.x[at]), y: frame.top + yaxis._offset + yaxis._length - 4,
        low: bars.x[at] - bars.width[at] / 2, high: bars.x[at] + bars.width[at] / 2, tokens: bars.y[at],
      };
    }""")
    await page.mouse.click(tallest["x"], tallest["y"])
    drawn = page.locator("#drawn .drawn-head")
    await expect(drawn).to_contain_text("outside held-out text")
    found = re.search(r"drawn from ([\d,]+) activation", await drawn.inner_text())
    assert found is not None
    assert 0.5 * tallest["tokens"] < int(found[1].replace(",", "")) <= tallest["tokens"]
    for value in await page.locator("#drawn .example-value").all_inner_texts():
        assert tallest["low"] - 0.01 <= float(value) <= tallest["high"] + 0.01
    await page.locator("#drawn .example-line").first.click()
    await expect(page.locator("#drawn .strip")).to_be_visible()
    others = page.get_by_role("link", name="draw others")
    if await others.count():
        before = await page.locator("#drawn .examples").inner_text()
        await others.click()
        await expect(page.locator("#drawn .examples")).not_to_have_text(before)
    assert problems == []


async def test_own_sentences_enter_the_address_only_on_request(page: Page, problems: Problems, address: str) -> None:
    await page.goto(address)
    await page.fill("#try-text", "It was the best of times,\n<b>it</b> was the worst of times.")
    await page.locator("#try-text").press("Control+Enter")
    await expect(page.locator(".tried li")).to_have_count(2)
    assert page.url == address
    await page.locator("#tried a").last.click()
    await page.wait_for_url(f"{address}?text=*")
    await expect(page.locator(".tried li")).to_have_count(2)
    await expect(page.locator("#try-text")).to_have_value(
        "It was the best of times,\n<b>it</b> was the worst of times."
    )
    assert problems == []


async def test_a_suggestion_goes_into_the_form_beside_what_was_typed(
    page: Page, problems: Problems, made: Synthetic, live: str
) -> None:
    await page.goto(f"{live}/saes/{made.sae.slug}/features/3")
    use = page.locator("#suggestions").get_by_role("link", name="Use in my label").first
    text = await use.get_attribute("data-fill")
    await use.click()
    field = page.locator("#explanation")
    await expect(field).to_be_focused()
    await expect(field).to_have_value(text or "")
    await use.click()
    await expect(field).to_have_value(text or "")
    await field.fill("My own words")
    await use.click()
    await expect(field).to_have_value(f"My own words\n{text}")
    assert problems == []
