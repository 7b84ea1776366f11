"""Every page in every state, walked once per width: WCAG 2.2 AA as far as axe-core can tell, in both themes; nothing
scrolls sideways, with the site's font and without it; nothing moves for who asked for less motion."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page

from tests.e2e.pages import EMPTY, MOVING, PAGES, Site, Visit, visit

pytestmark = [pytest.mark.browser, pytest.mark.read_only]

VENDOR = Path(__file__).parent / "vendor"
(AXE,) = json.loads((VENDOR / "manifest.json").read_text())
RULES = {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
CONTRAST = {"type": "rule", "values": ["color-contrast"]}
"""All that depends on the theme."""
FORGIVEN = {"API": {"landmark-main-is-top-level", "landmark-no-duplicate-main", "landmark-unique"}}
"""Best practices, not criteria, that a page breaks: RapiDoc brings a main part of its own, inside ours."""
GRID = ".mini.line"
"""Lines whose contrast axe cannot tell: at borders of its grid of 200 pixels it takes the shade of the next token for
the ground, so it depends on what stands above them. Their shades are those of the longer lines, which it checks."""
THEMES = ("light", "dark")
WIDTHS = {1440: (1440,), 390: (390, 320)}
"""Of a walk: the windows in which nothing may scroll sideways. axe looks in the first."""
LONG_WORDS = (
    Visit("feature, long words in its label", "/saes/{sae}/features/5"),
    Visit("list, feature to be taken out", "/lists/{list}/remove?sae={sae}&feature=1"),
)
OVERFLOW = """() => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(() =>
  resolve(document.documentElement.scrollWidth - document.documentElement.clientWidth))))"""
WITHOUT_FONT = """() => {
  for (const sheet of document.styleSheets) {
    const ofFont = [...sheet.cssRules].map((rule) => rule instanceof CSSFontFaceRule && /woff2/.test(rule.cssText));
    for (let at = ofFont.length - 1; at >= 0; at--) if (ofFont[at]) sheet.deleteRule(at);
  }
  return [...document.fonts].some(({ family, status }) => family === "Inter" && status !== "unloaded");
}"""
"""Leave the text to the stand-ins, as where the font never arrives; true if it is still there."""


def test_vendored_axe_matches_its_manifest() -> None:
    content = (VENDOR / AXE["file"]).read_bytes()
    assert hashlib.sha256(content).hexdigest() == AXE["sha256"]
    assert AXE["version"] in AXE["file"]
    assert "Mozilla Public License" in (VENDOR / AXE["licence_file"]).read_text()


@pytest.mark.parametrize("width", WIDTHS)
async def test_every_page_in_every_state(browser: Browser, site: Site, width: int) -> None:
    refuse(await walk(browser, site, (*PAGES, *LONG_WORDS), width))


async def test_an_empty_site(browser: Browser, live: str) -> None:
    refuse([each for width in WIDTHS for each in await walk(browser, Site(live, {}), EMPTY, width)])


def refuse(found: Sequence[str]) -> None:
    if found:
        pytest.fail("\n".join(found), pytrace=False)


async def walk(browser: Browser, site: Site, visits: Sequence[Visit], width: int) -> list[str]:
    """Return what is wrong with the pages, one line each."""
    context = await browser.new_context(viewport={"width": width, "height": 900}, reduced_motion="reduce")
    await context.add_init_script(path=VENDOR / AXE["file"])
    page = await context.new_page()
    found = []
    for each in visits:
        await page.emulate_media(color_scheme="light")
        await visit(page, site, each)
        wrong = [*await moving(page), *await violations(page, each), *await sideways(page, WIDTHS[width])]
        found += [f"{each.name}, {width} px: {line}" for line in wrong]
        await page.set_viewport_size({"width": width, "height": 900})
    await context.close()
    return found


async def moving(page: Page) -> list[str]:
    """What moves although motion is reduced."""
    running = await page.evaluate("document.getAnimations().length")
    return [f"{running} animations"] * bool(running) + [f"moves: {html}" for html in await page.evaluate(MOVING)]


async def violations(page: Page, each: Visit) -> list[str]:
    """Violations that axe-core finds in both themes, one line per element."""
    found = []
    for theme in THEMES:
        await page.emulate_media(color_scheme=theme)
        await page.wait_for_function("theme => (document.documentElement.dataset.theme ?? theme) === theme", arg=theme)
        only = RULES if theme == "light" else CONTRAST
        result = await page.evaluate("only => axe.run({ runOnly: only, resultTypes: ['violations'] })", only)
        broken = [rule for rule in result["violations"] if rule["id"] not in FORGIVEN.get(each.name, ())]
        found += [f"{theme}: {line}" for line in lines(broken)]
    return found


def lines(broken: Sequence[dict[str, Any]]) -> list[str]:
    return [
        f"{rule['id']} at {node['target'][0]}: {' '.join(node['failureSummary'].split())} [{node['html'][:160]}]"
        for rule in broken
        for node in rule["nodes"]
        if rule["id"] != "color-contrast" or GRID not in node["target"][0]
    ]


async def sideways(page: Page, widths: Sequence[int]) -> list[str]:
    """By how much the page is wider than each window, with the font and then without it."""
    found = []
    for font in ("with the font", "without the font"):
        if font == "without the font" and await page.evaluate(WITHOUT_FONT):
            found.append("the font could not be taken away")
        for width in widths:
            await page.set_viewport_size({"width": width, "height": 900})
            if overflow := await page.evaluate(OVERFLOW):
                found.append(f"{overflow} pixels too wide for {width}, {font}")
    return found
