"""Measured effects as a person meets them: in the list, on the map, on a feature's page."""

import pytest
from playwright.async_api import Page, expect

from tests.e2e.pages import Site

pytestmark = [pytest.mark.browser, pytest.mark.read_only]


async def test_features_are_sorted_and_filtered_by_effect(page: Page, site: Site) -> None:
    await page.goto(f"{site.url}/saes/{site.names['sae']}/features")
    await page.select_option("#sort", "effect")
    await page.wait_for_url("**sort=effect**")
    rows = page.locator("a.feature-row")
    await expect(rows.first).to_contain_text("effect 3.1 ×")
    await expect(rows.nth(1)).to_contain_text("effect 1.8 ×")
    await page.get_by_text("More filters").click()
    await page.select_option("#effect", "used")
    await page.wait_for_url("**effect=used**")
    await expect(rows).to_have_count(1)
    await rows.first.click()
    await page.wait_for_url("**/features/1")
    await expect(page.locator(".effect-sentence")).to_contain_text("3.1 × as much as chance, 2.7–3.6; used")


async def test_the_map_is_coloured_by_effect(page: Page, site: Site) -> None:
    await page.goto(f"{site.url}/saes/{site.names['sae']}/map")
    await page.wait_for_selector("[data-map][data-ready]")
    await page.select_option("[data-map-colour]", "effect")
    await page.wait_for_url("**colour=effect**")
    await expect(page.get_by_text("× chance").first).to_be_visible()
    await expect(page.get_by_text("not measured (57)")).to_be_visible()


async def test_the_numbers_of_the_dose_response_open_below_it(page: Page, site: Site) -> None:
    await page.goto(f"{site.url}/saes/{site.names['sae']}/features/1")
    drawn = page.get_by_role("img", name="Added, by dose: KL is 0.050 at 0.5 ×")
    await expect(drawn).to_be_visible()
    section = page.locator("section.effect")
    await section.locator("summary").click()
    await expect(section.get_by_role("cell", name="0.20–0.80")).to_be_visible()
