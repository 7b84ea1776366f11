"""The API's reference, which a script draws from the API's description."""

import asyncio
from typing import Any

import pytest
from playwright.async_api import Page, Route, expect

from tests.e2e.conftest import Problems

pytestmark = [pytest.mark.browser, pytest.mark.read_only]

DESCRIPTION = "**/api/openapi.json"
RAPIDOC = "**/rapidoc-*.js*"
CANNOT_DRAW = """customElements.define("rapi-doc", class extends HTMLElement {
  async loadSpec() { this.loadFailed = true; }
});"""


async def test_the_reference_says_what_it_waits_for_until_it_is_there(page: Page, live: str) -> None:
    asked, may_answer = asyncio.Event(), asyncio.Event()

    async def wait(route: Route) -> None:
        asked.set()
        await may_answer.wait()
        await route.continue_()

    await page.route(DESCRIPTION, wait)
    await page.goto(f"{live}/api/docs")
    await asked.wait()
    state = page.locator("[data-api-state]")
    await expect(state).to_have_text("Reading the API's description…")
    may_answer.set()
    await expect(page.locator('rapi-doc >> text="/api/v1/saes"').first).to_be_visible()
    await expect(state).to_be_hidden()


@pytest.mark.parametrize(
    ("address", "answer", "complaint"),
    [
        (DESCRIPTION, {"status": 503}, "503"),
        (DESCRIPTION, None, "ERR_FAILED"),
        (DESCRIPTION, {"body": "<html>"}, ""),
        (DESCRIPTION, {"json": {}}, ""),
        (RAPIDOC, {"status": 404}, "404"),
        (RAPIDOC, {"body": CANNOT_DRAW, "content_type": "text/javascript"}, ""),
    ],
)
async def test_a_reference_that_cannot_be_drawn_says_so(
    page: Page, live: str, problems: Problems, address: str, answer: dict[str, Any] | None, complaint: str
) -> None:
    await page.route(address, lambda route: route.fulfill(**answer) if answer else route.abort())
    await page.goto(f"{live}/api/docs")
    state = page.locator("[data-api-state]")
    await expect(state).to_contain_text("The API's description could not be read")
    await expect(state).to_contain_text("Reload this page to try again")
    if complaint:
        problems.forgive(complaint)
