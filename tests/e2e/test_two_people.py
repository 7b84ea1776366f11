"""Two people with accounts in two browsers: a blind set, what appears when, one label in two tabs, a decision."""

import httpx
import pytest
from playwright.async_api import Browser, Page, expect
from sqlalchemy.ext.asyncio import AsyncEngine

from app.services.actors import Role
from tests.factories import Synthetic
from tests.people import SignedIn, sign_in

pytestmark = pytest.mark.browser
FEATURE = 5


async def opened(browser: Browser, person: SignedIn, url: str) -> Page:
    """Open a page in a browser of this person's own, at an address of the site."""
    context = await browser.new_context(viewport={"width": 1440, "height": 900})
    await context.add_cookies([{"name": name, "value": value, "url": url} for name, value in person.cookies.items()])
    page = await context.new_page()
    page.set_default_timeout(15_000)
    return page


async def write(page: Page, words: str) -> None:
    """Write the label of the flow's feature and submit it."""
    await page.keyboard.press("e")
    await page.fill("#explanation", words)
    await page.locator("#explanation").press("Enter")
    await expect(page.locator("#flow h1")).to_have_text("All done")


async def test_two_people_label_blind_meet_and_decide(
    browser: Browser, live: str, made: Synthetic, engine: AsyncEngine
) -> None:
    ada, grace = await sign_in(engine, "ada", Role.reviewer), await sign_in(engine, "grace", Role.labeller)
    rules = {"sae": made.sae.slug, "name": "pair", "needed": 2, "blind": True, "scope": {"features": [FEATURE]}}
    async with httpx.AsyncClient(base_url=live, headers=ada.headers) as client:
        number = (await client.post("/api/v1/labelsets", json=rules)).raise_for_status().json()["id"]
    feature, flow = f"{live}/saes/{made.sae.slug}/features/{FEATURE}", f"{live}/labelsets/{number}/label"
    hers, his = await opened(browser, ada, live), await opened(browser, grace, live)

    await hers.goto(flow)
    await hers.get_by_role("button", name="Begin").click()
    await hers.wait_for_url("**feature=*")
    await write(hers, "rivers")
    await his.goto(feature)
    await expect(his.locator(".label-text")).to_have_count(0)  # blind: hers is withheld
    await his.goto(flow)
    await his.get_by_role("button", name="Begin").click()
    await his.wait_for_url("**feature=*")
    await expect(his.locator("body")).not_to_contain_text("rivers")
    await write(his, "lakes")
    await his.goto(feature)
    await expect(his.locator(".label-text")).to_have_text(["lakes", "rivers"])

    other_tab = await hers.context.new_page()
    for tab in (hers, other_tab):
        await tab.goto(feature)
        await tab.locator(".label-form summary").click()
    await hers.fill("#explanation", "names of rivers")
    await hers.get_by_role("button", name="Save label").click()
    await expect(hers.locator("#status")).to_have_text("Saved.")
    await expect(his.locator(".label-text")).to_have_count(3)  # it appears on his open page
    await other_tab.fill("#explanation", "large rivers")
    await other_tab.get_by_role("button", name="Save label").click()
    await expect(other_tab.locator("blockquote")).to_have_text("names of rivers")
    await expect(other_tab.locator("#explanation")).to_have_value("large rivers")
    await other_tab.fill("#explanation", "names of large rivers")
    await other_tab.get_by_role("button", name="Save label").click()
    await expect(other_tab.locator(".label-text").first).to_have_text("names of large rivers")

    await hers.goto(f"{live}/labelsets/{number}/adjudicate")
    await hers.locator(".difference").click()
    await hers.wait_for_url(f"**/adjudicate/{FEATURE}*")
    await hers.keyboard.press("1")
    await expect(hers.locator("#explanation")).not_to_have_value("")
    await hers.get_by_role("button", name="Decide").click()
    await expect(his.locator(".decided")).to_be_visible()
    assert (await his.goto(f"{live}/labelsets/{number}/adjudicate/{FEATURE}")) is not None
    await expect(his.get_by_role("button", name="Decide")).to_have_count(0)  # a labeller may vote, and not decide
