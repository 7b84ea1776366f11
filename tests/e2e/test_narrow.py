"""Narrow windows and a late font: nothing scrolls sideways, and nothing moves when Inter arrives."""

import asyncio

import pytest
from playwright.async_api import Browser, Page, Route, expect

from tests.e2e.pages import PAGES, Site, Visit, visit
from tests.e2e.test_pages import OVERFLOW, SHIFT

pytestmark = [pytest.mark.browser, pytest.mark.read_only]

FONT = "**/*.woff2"
LONG_WORDS = (
    Visit("feature, long words in its label", "/saes/{sae}/features/5"),
    Visit("list, feature to be taken out", "/lists/{list}/remove?sae={sae}&feature=1"),
)
STAND_INS = """async (weights) => {
  const text = "A sparse autoencoder splits a model's activations into features. Browse them by their text.";
  const context = document.createElement("canvas").getContext("2d");
  const measure = (family, weight) => {
    context.font = `${weight} 100px ${family}`;
    const { width, fontBoundingBoxAscent, fontBoundingBoxDescent } = context.measureText(text);
    return [width, fontBoundingBoxAscent, fontBoundingBoxDescent];
  };
  const declared = [...document.fonts].filter(({ family }) => family.includes("Inter as")).length;
  const found = [];
  for (const weight of weights) {
    await document.fonts.load(`${weight} 100px Inter`);
    for (const family of ["Inter as Arial", "Inter as Roboto", "Inter as DejaVu"]) {
      const loaded = await document.fonts.load(`${weight} 100px "${family}"`).catch(() => []); // not on this machine
      if (!loaded.length) continue;
      found.push({ family, weight, sizes: measure(`"${family}"`, weight), inter: measure("Inter", weight) });
    }
  }
  return [declared, found];
}"""


async def abort(route: Route) -> None:
    await route.abort()


@pytest.mark.parametrize(
    ("width", "with_font"),
    [
        (320, True),
        (390, False),
        pytest.param(320, False, marks=pytest.mark.slow),
        pytest.param(390, True, marks=pytest.mark.slow),
    ],
)
async def test_no_page_scrolls_sideways(browser: Browser, site: Site, width: int, with_font: bool) -> None:
    context = await browser.new_context(viewport={"width": width, "height": 900})
    page = await context.new_page()
    if not with_font:
        await page.route(FONT, abort)
    wide = {}
    for to in (*PAGES, *LONG_WORDS):
        await visit(page, site, to)
        if overflow := await page.evaluate(OVERFLOW):
            wide[to.name] = overflow
    assert not wide


@pytest.mark.parametrize(
    "width",
    [390, pytest.param(320, marks=pytest.mark.slow), pytest.param(1440, marks=pytest.mark.slow)],
)
async def test_nothing_moves_when_the_font_arrives_late(browser: Browser, site: Site, width: int) -> None:
    moved = {}
    for to in {each.address: each for each in reversed(PAGES)}.values():  # the first state of each page
        context = await browser.new_context(viewport={"width": width, "height": 900})
        if shift := await shift_by_font(await context.new_page(), site, to):
            moved[to.name] = shift
        await context.close()
    assert not moved


async def shift_by_font(page: Page, site: Site, to: Visit) -> float:
    """Return the layout shift after the page was painted without the font."""
    arrives = asyncio.Event()

    async def deliver(route: Route) -> None:
        await arrives.wait()
        await route.continue_()

    await page.route(FONT, deliver)
    await page.goto(site.url + to.address.format_map(site.names), wait_until="domcontentloaded")
    await page.wait_for_function("() => performance.getEntriesByName('first-contentful-paint').length > 0")
    if to.ready:
        await expect(page.locator(to.ready).first).to_be_visible()
    before: float = await page.evaluate(SHIFT)
    arrives.set()
    await page.wait_for_load_state("load")
    await page.evaluate("document.fonts.ready.then(() => {})")
    after: float = await page.evaluate(SHIFT)
    return after - before


async def test_stand_ins_have_the_sizes_of_the_font(page: Page, site: Site) -> None:
    await page.goto(site.url)
    declared, measured = await page.evaluate(STAND_INS, [400, 620])
    assert declared == 6
    if not measured:
        pytest.skip("none of Arial, Roboto and DejaVu Sans is installed")
    for each in measured:
        width, *heights = each["sizes"]
        inter, *of_inter = each["inter"]
        assert width == pytest.approx(inter, rel=0.03), each
        assert heights == pytest.approx(of_inter, abs=1.5), each
