"""Cost of a first visit, measured in Chromium: compressed bytes, the largest paint, and layout shift, with a font that
arrives after the first paint: its stand-ins have its sizes, so nothing moves then.

`pytest -s tests/e2e/test_loading.py` prints the figures. A page whose largest paint is late, or on which
something moved too far, is loaded up to three times, and the best counts: a machine with two busy cores now and then
takes a break, and what was one frame becomes two.
"""

import asyncio
from dataclasses import dataclass

import pytest
from playwright.async_api import Browser, Page, Route, expect

from tests.e2e.pages import DRAWN, PAGES, Site, Visit

pytestmark = [pytest.mark.browser, pytest.mark.read_only]

MOST_BYTES = 600_000
LONGEST_PAINT_MS = 1_000
FARTHEST_SHIFT = 0.02
LOADS = 3
FONT = "**/*.woff2"

FRAME_LATER = "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(seen.shift))))"
OBSERVE = """() => {
  window.seen = { paint: 0, shift: 0 };
  const watch = (type, look) =>
    new PerformanceObserver((list) => list.getEntries().forEach(look)).observe({ type, buffered: true });
  watch("largest-contentful-paint", (entry) => { seen.paint = entry.startTime; });
  watch("layout-shift", (entry) => { if (!entry.hadRecentInput) seen.shift += entry.value; });
}"""
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


@dataclass(frozen=True, slots=True)
class Load:
    """One load of a page: bytes over the wire, milliseconds to the largest paint, layout shift, and what of it came by
    the font."""

    bytes: int
    paint: float
    shift: float
    font_shift: float

    def with_another(self, other: "Load") -> "Load":
        return Load(
            max(self.bytes, other.bytes),
            min(self.paint, other.paint),
            min(self.shift, other.shift),
            max(self.font_shift, other.font_shift),
        )


@pytest.mark.parametrize(
    "width", [390, pytest.param(1440, marks=pytest.mark.slow), pytest.param(320, marks=pytest.mark.slow)]
)
async def test_first_loads_stay_within_bytes_paint_and_shift_limits(browser: Browser, site: Site, width: int) -> None:
    failed = []
    print(f"\n{'page':32}{'bytes':>10}{'paint, ms':>12}{'shift':>9}{'by font':>9}   at {width} px")
    for each in {each.address: each for each in reversed(PAGES)}.values():  # the first state of each page
        found = await load(browser, site, each, width)
        for _ in range(LOADS - 1):
            if is_slow(each, found) or found.shift > FARTHEST_SHIFT:
                found = found.with_another(await load(browser, site, each, width))
        line = f"{each.name:32}{found.bytes:>10,}{found.paint:>12.0f}{found.shift:>9.4f}{found.font_shift:>9.4f}"
        print(line)
        if found.bytes > MOST_BYTES or is_slow(each, found) or found.shift > FARTHEST_SHIFT or found.font_shift:
            failed.append(line)
    assert not failed


def is_slow(page: Visit, found: Load) -> bool:
    """Whether the page paints late; RapiDoc's, of which we paint nothing, may."""
    return found.paint > LONGEST_PAINT_MS and page.name != "API"


async def load(browser: Browser, site: Site, each: Visit, width: int) -> Load:
    """Load a page as somebody does who was never here."""
    context = await browser.new_context(viewport={"width": width, "height": 900})
    page = await context.new_page()
    wire = await context.new_cdp_session(page)
    total = 0
    arrives = asyncio.Event()

    async def deliver(route: Route) -> None:
        await arrives.wait()
        await route.continue_()

    def count(event: dict[str, float]) -> None:
        nonlocal total
        total += int(event["encodedDataLength"])

    wire.on("Network.loadingFinished", count)
    await wire.send("Network.enable")
    await wire.send("Network.setCacheDisabled", {"cacheDisabled": True})
    await page.add_init_script(f"({OBSERVE})()")
    await page.route(FONT, deliver)
    await page.goto(site.url + each.address.format_map(site.names), wait_until="domcontentloaded")
    await page.wait_for_function("() => seen.paint > 0")
    if each.ready:
        await expect(page.locator(each.ready).first).to_be_visible()
    await page.wait_for_function(DRAWN)
    before = await page.evaluate(FRAME_LATER)
    arrives.set()
    await page.wait_for_load_state("load")
    await page.evaluate("document.fonts.ready.then(() => {})")
    by_font = await page.evaluate(FRAME_LATER) - before
    first, paint = total, await page.evaluate("seen.paint")
    for chart in await page.locator("[data-chart]").all():  # what is fetched and drawn on the way down moves nothing
        await chart.scroll_into_view_if_needed()
        await page.wait_for_function(DRAWN)
    shift = await page.evaluate(FRAME_LATER)
    await context.close()
    return Load(first, paint, shift, by_font)


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
