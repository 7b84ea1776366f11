"""Every page in a browser that runs no scripts: it reads, its charts are tables, and its forms lead somewhere."""

import re
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser, Locator, Page, Response, expect

from tests.e2e.pages import EMPTY, PAGES, Site, Visit, visit

pytestmark = [pytest.mark.browser, pytest.mark.read_only]

NEVER_ENDS = re.compile(r"\b(loading|please wait|one moment)\b|…\s*$", re.IGNORECASE)
ACTION = "form => `${form.method} ${form.action}`"
READ = [each for each in PAGES if not each.scripts]


@pytest.fixture
async def page(browser: Browser) -> AsyncIterator[Page]:
    context = await browser.new_context(viewport={"width": 1440, "height": 900}, java_script_enabled=False)
    context.set_default_timeout(15_000)
    yield await context.new_page()
    await context.close()


async def test_every_page_is_readable(page: Page, site: Site) -> None:
    for each in READ:
        await visit(page, site, each)
        await reads(page, each)


async def test_an_empty_site_is_readable(page: Page, live: str) -> None:
    for each in EMPTY:
        await visit(page, Site(live, {}), each)
        await reads(page, each)


async def reads(page: Page, each: Visit) -> None:
    main = page.locator("main")
    assert (await main.locator("h1").inner_text()).strip(), each.name
    text = await main.inner_text()
    assert len(text) > 60, f"{each.name}: {text}"
    assert not NEVER_ENDS.search(text), f"{each.name}: {text}"
    for chart in await main.locator(".chart").all():
        if not await chart.locator("table").is_visible():
            await chart.locator(".chart-data summary").click()
        await expect(chart.locator("tbody tr").first).to_be_visible()
    for button in await page.locator("button:visible").all():
        assert await button.evaluate("button => button.type === 'submit' && button.form !== null"), (
            f"{each.name}: nothing hears the button {await button.inner_text()}"
        )


@pytest.mark.own_database
async def test_every_form_is_answered(page: Page, site: Site) -> None:
    tried = set()
    for each in READ:
        if each.status != 200:
            continue
        await visit(page, site, each)
        elsewhere = False
        forms = page.locator("main form:not([hidden])")
        for before in await forms.evaluate_all(f"forms => forms.map({ACTION})"):
            if before in tried or before.endswith("/closed"):  # a closed set takes nothing from the other forms
                continue
            if elsewhere:
                await visit(page, site, each)
            there = await forms.evaluate_all(f"forms => forms.map({ACTION})")
            if before not in there:  # such as that of a label which another form discarded
                continue
            form, action = forms.nth(there.index(before)), before
            tried.add(action)
            if not await form.locator(ENABLED).count():  # such as votes on a label of one's own
                continue
            response = await send(page, form)
            elsewhere = True
            away = response.status == 503 and action.endswith(
                ("/drawn", "/try#try", "/check#try", "/tests")
            )  # made up: without model and store
            assert away or response.status in (200, 422), f"{each.name}, {action}: {response.status}"
            await expect(page.locator("main h1")).to_be_visible()
            if response.status == 422:  # what was wrong, and the form to mend it
                await expect(page.locator("main [role=alert]")).to_be_visible()
                await expect(page.locator("main form:not([hidden])").first).to_be_visible()
    assert len(tried) > 5


ENABLED = "button:not([aria-disabled=true])"


async def send(page: Page, form: Locator) -> Response:
    """Fill in what the form requires, and send it."""
    for details in await form.locator("xpath=ancestor::details[not(@open)]").all():
        await details.locator("summary").first.click()
    for field in await form.locator(":is(input, textarea):required:visible").all():
        if await field.get_attribute("type") == "file":
            await field.set_input_files({"name": "rivers.csv", "mimeType": "text/csv", "buffer": b"rivers"})
        elif not await field.input_value():
            await field.fill("rivers")
    for choice in await form.locator("select:required:visible").all():
        if not await choice.input_value():
            await choice.select_option(index=1)
    async with page.expect_navigation() as navigation:
        await form.locator(ENABLED).first.click()
    response = await navigation.value
    assert response is not None
    return response
