"""Every page for everyone: WCAG 2.2 AA as far as axe-core can tell, and what it cannot: keyboard, motion, colours."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page

from tests.e2e.pages import EMPTY, PAGES, Site, Visit, visit

pytestmark = pytest.mark.browser

VENDOR = Path(__file__).parent / "vendor"
(AXE,) = json.loads((VENDOR / "manifest.json").read_text())
RULES = {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]}
CONTRAST = {"type": "rule", "values": ["color-contrast"]}
"""All that depends on the theme."""
FORGIVEN = {"API": {"landmark-main-is-top-level", "landmark-no-duplicate-main", "landmark-unique"}}
"""Best practices, not criteria, that a page breaks: RapiDoc brings a main part of its own, inside ours."""
THEMES = ("light", "dark")
WIDTHS = (1440, 390)


def test_axe_is_what_its_manifest_says() -> None:
    content = (VENDOR / AXE["file"]).read_bytes()
    assert hashlib.sha256(content).hexdigest() == AXE["sha256"]
    assert AXE["version"] in AXE["file"]
    assert "Mozilla Public License" in (VENDOR / AXE["licence_file"]).read_text()


@pytest.mark.parametrize("width", WIDTHS)
async def test_axe_finds_nothing_on_any_page(browser: Browser, site: Site, width: int) -> None:
    refuse(await violations(browser, site, PAGES, width))


async def test_axe_finds_nothing_before_anything_is_made(browser: Browser, live: str) -> None:
    refuse([each for width in WIDTHS for each in await violations(browser, Site(live, {}), EMPTY, width)])


def refuse(found: Sequence[str]) -> None:
    if found:
        pytest.fail("\n".join(found), pytrace=False)


async def violations(browser: Browser, site: Site, visits: Sequence[Visit], width: int) -> list[str]:
    """What axe-core finds, a line for each element, in both themes."""
    context = await browser.new_context(viewport={"width": width, "height": 900}, reduced_motion="reduce")
    page = await context.new_page()
    axe = (VENDOR / AXE["file"]).read_text()
    found = []
    for each in visits:
        await page.emulate_media(color_scheme="light")
        await visit(page, site, each)
        await page.evaluate(axe)
        for theme in THEMES:
            await page.emulate_media(color_scheme=theme)
            await page.wait_for_function("theme => document.documentElement.dataset.theme === theme", arg=theme)
            only = RULES if theme == "light" else CONTRAST
            result = await page.evaluate("only => axe.run({ runOnly: only, resultTypes: ['violations'] })", only)
            broken = [rule for rule in result["violations"] if rule["id"] not in FORGIVEN.get(each.name, ())]
            found += [f"{each.name}, {width} px, {theme}: {line}" for line in lines(broken)]
    await context.close()
    return found


def lines(broken: Sequence[dict[str, Any]]) -> list[str]:
    return [
        f"{rule['id']} at {node['target'][0]}: {' '.join(node['failureSummary'].split())} [{node['html'][:160]}]"
        for rule in broken
        for node in rule["nodes"]
    ]
