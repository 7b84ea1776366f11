"""The map of features in a real browser: pointing, keys, choosing with the lasso."""

import pytest
from playwright.async_api import Page, expect

from tests.factories import Synthetic

pytestmark = [pytest.mark.browser, pytest.mark.read_only]


@pytest.fixture
async def map_page(page: Page, live: str, made: Synthetic) -> Page:
    await page.goto(f"{live}/saes/{made.sae.slug}/map")
    await page.wait_for_selector("[data-map][data-ready]")
    return page


async def test_arrow_keys_move_between_points_and_enter_opens_one(map_page: Page, made: Synthetic) -> None:
    await map_page.focus("canvas")
    await map_page.keyboard.press("ArrowRight")
    tip = map_page.locator("[data-map-tip]")
    await expect(tip).to_contain_text("fires on")
    first = await tip.locator("b").inner_text()
    await map_page.keyboard.press("ArrowRight")
    await expect(tip.locator("b")).not_to_have_text(first)
    named = (await tip.locator("b").inner_text()).removeprefix("feature ")
    await expect(tip.locator(".map-tip-name")).to_be_visible()
    await map_page.keyboard.press("Enter")
    await map_page.wait_for_url(f"**/saes/{made.sae.slug}/features/{named}")


async def test_lasso_selects_the_points_inside_it(map_page: Page) -> None:
    await map_page.click("[data-map-lasso]")
    box = await map_page.locator("canvas").bounding_box()
    assert box
    corners = [(0.01, 0.01), (0.99, 0.01), (0.99, 0.99), (0.01, 0.99)]
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in corners]
    await map_page.mouse.move(*places[0])
    await map_page.mouse.down()
    for place in places[1:]:
        await map_page.mouse.move(*place, steps=4)
    await map_page.mouse.up()
    await expect(map_page.locator("[data-map-count]")).to_have_text("60 features")
    numbers = await map_page.locator("[name=features]").input_value()
    assert sorted(map(int, numbers.split())) == list(range(60))
    await map_page.click("[data-map-reset]")
    await expect(map_page.locator("[data-map-chosen]")).to_be_hidden()


async def test_axes_and_colour_are_kept_in_the_address(map_page: Page) -> None:
    await map_page.check("[data-map-axes][value=rate]")
    await map_page.select_option("[data-map-colour]", "topic")
    await map_page.wait_for_url("**/map?axes=rate&colour=topic")
    await map_page.reload()
    await map_page.wait_for_selector("[data-map][data-ready]")
    await expect(map_page.locator("[data-map-axes][value=rate]")).to_be_checked()
    await expect(map_page.locator("[data-map-colour]")).to_have_value("topic")
    await expect(map_page.locator("[data-map-note]")).to_contain_text("dead feature")


async def test_overview_draws_maps_when_scrolled_into_view(page: Page, live: str, made: Synthetic) -> None:
    await page.goto(f"{live}/saes/{made.sae.slug}")
    await page.locator("#rate").scroll_into_view_if_needed()
    await expect(page.locator("[data-map][data-ready]")).to_have_count(2)
