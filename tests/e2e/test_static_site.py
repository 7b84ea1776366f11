"""A static site from a disk: no server, no request beyond its folder, with and without JavaScript."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, Request, expect
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db import create_sessionmaker
from app.exchange import static_site
from app.exchange.features import export_features
from app.exchange.static_site import write_site
from tests.e2e.conftest import Problems
from tests.e2e.test_pages import OVERFLOW
from tests.factories import Synthetic

pytestmark = pytest.mark.browser

PAGES = ("index.html", "list/2.html", "features/1.html", "features/2.html")


@pytest.fixture(scope="module")
async def folder(module_made: Synthetic, module_engine: AsyncEngine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("static") / "site"
    sessionmaker = create_sessionmaker(module_engine)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(static_site, "ROWS", 30)
        await export_features(sessionmaker, module_made.sae.slug, write_site, folder, progress=lambda done, total: None)
    return folder


@pytest.fixture
async def asked(page: Page) -> AsyncIterator[list[str]]:
    """Addresses that the page asked for."""
    found: list[str] = []

    def note(request: Request) -> None:
        found.append(request.url)

    page.on("request", note)
    yield found


async def test_static_site_requests_nothing_outside_its_folder(page: Page, folder: Path, asked: list[str]) -> None:
    for name in PAGES:
        await page.goto((folder / name).as_uri())
    fonts = await page.evaluate(
        "document.fonts.ready.then((fonts) => [...fonts].filter((f) => f.status === 'loaded').length)"
    )
    assert fonts
    assert asked
    assert not [address for address in asked if not address.startswith(folder.as_uri())]


@pytest.mark.parametrize(("width", "theme"), [(1440, "light"), (390, "dark")])
async def test_static_pages_have_no_horizontal_scroll(
    browser: Browser, folder: Path, problems: Problems, width: int, theme: str
) -> None:
    context = await browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme)
    page = await context.new_page()
    problems.watch(page)
    for name in PAGES:
        await page.goto((folder / name).as_uri())
        assert await page.evaluate(OVERFLOW) <= 0, name
        assert await page.evaluate("document.documentElement.dataset.theme") == theme


async def test_static_list_can_be_searched_and_sorted(page: Page, folder: Path) -> None:
    await page.goto((folder / "index.html").as_uri())
    rows, note = page.locator(".feature-row"), page.locator("#list-note")
    await expect(rows).to_have_count(30)
    await page.fill("#q", "violin")
    await expect(note).to_contain_text("of 60")
    found = await rows.count()
    assert 0 < found < 30
    await page.fill("#q", "no such word at all")
    await expect(note).to_contain_text("Nothing matches")
    await page.fill("#q", "")
    await expect(rows).to_have_count(30)
    await page.select_option("#sort", label="highest maximum first")
    await expect(rows).to_have_count(50)
    maxima = [
        float(text.removeprefix("max ").replace(",", ""))
        for text in await page.locator(".feature-max").all_text_contents()
    ]
    assert maxima[1:] == sorted(maxima[1:], reverse=True)
    await page.select_option("#sort", label="by number")
    await expect(rows.first.locator(".feature-number")).to_have_text("0")
    await expect(rows).to_have_count(50)
    await page.get_by_role("button", name="More").click()
    await expect(rows).to_have_count(60)
    await expect(rows.nth(50)).to_be_focused()
    await rows.nth(1).click()
    await expect(page.locator("h1")).to_be_visible()
    assert page.url == (folder / "features" / "1.html").as_uri()
    await page.get_by_role("link", name="All features", exact=True).click()
    await expect(page.locator("#filters")).to_be_visible()


async def test_static_example_opens_in_place(page: Page, folder: Path) -> None:
    await page.goto((folder / "features" / "1.html").as_uri())
    whole = page.locator(".example .strip").first
    await expect(whole).to_be_hidden()
    await page.locator("summary.example-line").first.click()
    await expect(whole).to_be_visible()
    await expect(whole.locator(".top").first).to_be_visible()


async def test_static_site_works_without_javascript(browser: Browser, folder: Path) -> None:
    context = await browser.new_context(java_script_enabled=False)
    page = await context.new_page()
    await page.goto((folder / "index.html").as_uri())
    await expect(page.locator(".feature-row")).to_have_count(30)
    await expect(page.locator("#filters")).to_be_hidden()
    await page.locator("nav.pages a").first.click()
    await expect(page.locator("h1")).to_contain_text("page 2 of 2")
    await page.locator(".feature-row").first.click()
    await page.locator("summary.example-line").first.click()
    await expect(page.locator(".example .strip").first).to_be_visible()
    await expect(page.locator(".plot path").first).to_be_visible()
