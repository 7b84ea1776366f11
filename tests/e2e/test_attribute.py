"""Attribution in a browser: click a token, choose a rival, follow a node to its feature."""

import re

import pytest
from playwright.async_api import Page, expect

from tests.e2e.pages import PROMPT, Site

pytestmark = [pytest.mark.browser, pytest.mark.read_only]


async def ask(page: Page, site: Site) -> None:
    await page.goto(f"{site.url}/saes/{site.names['live']}/attribute")
    await page.fill("#text", PROMPT)
    await page.get_by_role("button", name="Attribute", exact=True).click()
    await expect(page.locator(".causes .cause").first).to_be_visible()


async def test_a_token_is_chosen_in_the_prompt_by_click_and_by_key(page: Page, site: Site) -> None:
    await ask(page, site)
    tokens = page.locator(".attribute-strip button")
    await expect(tokens.last).to_have_class(re.compile("target"))
    await tokens.nth(5).click()
    await expect(tokens.nth(5)).to_have_class(re.compile("target"))
    await tokens.nth(5).focus()
    await page.keyboard.press("ArrowRight")
    await page.keyboard.press("Enter")
    await expect(tokens.nth(6)).to_have_class(re.compile("target"))


async def test_a_rival_is_chosen_and_dropped(page: Page, site: Site) -> None:
    await ask(page, site)
    heading = page.locator("#target")
    await expect(heading).not_to_contain_text("and not")
    await page.get_by_role("button", name="As rival").first.click()
    await expect(heading).to_contain_text("and not")
    await page.get_by_label("Integrated gradients").check()
    await page.get_by_role("button", name="Attribute", exact=True).click()
    await expect(page.locator(".probe-foot")).to_contain_text("gradients averaged")
    await expect(heading).to_contain_text("and not")
    await page.get_by_role("button", name="Not as rival").click()
    await expect(heading).not_to_contain_text("and not")


async def test_a_node_of_the_graph_opens_its_feature(page: Page, site: Site) -> None:
    await page.goto(f"{site.url}/saes/{site.names['live']}/attribute")
    await page.fill("#text", PROMPT)
    await page.locator("[name=saes]").first.check(force=True)
    await page.get_by_role("button", name="Attribute", exact=True).click()
    node = page.locator(f"svg.graph a[href*='{site.names['live']}/features']").first
    await node.focus()
    await page.keyboard.press("Enter")
    await expect(page).to_have_url(re.compile(r"/features/\d+$"))
