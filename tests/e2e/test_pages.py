"""The site in a real browser, on made-up features: layout, keyboard, theme, labels, live runs, no JavaScript."""

import re

import pytest
from playwright.async_api import Browser, Page, expect
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from app.db import create_sessionmaker, transaction
from app.queries.runs import (
    MetricPoint,
    Stage,
    append_metrics,
    create_run,
    finish_run,
    start_run,
    update_progress,
)
from app.services.actors import Actor
from app.services.lists import ListText, NewItem, create_list
from tests.comparing import NARROW, WIDE, compare
from tests.e2e.conftest import Problems
from tests.e2e.pages import DRAWN
from tests.factories import Synthetic, add_label, add_run, make_sae

pytestmark = [pytest.mark.browser, pytest.mark.read_only]

SHIFT = """() => new Promise((resolve) => {
  let sum = 0;
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) if (!entry.hadRecentInput) sum += entry.value;
  }).observe({ type: "layout-shift", buffered: true });
  requestAnimationFrame(() => requestAnimationFrame(() => resolve(sum)));
})"""
OVERFLOW = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
async def addresses(module_made: Synthetic, module_engine: AsyncEngine) -> list[str]:
    """Every page there is, in each of its states."""
    made, bare = module_made, await make_sae(module_engine, slug="bare", publish=False)
    async with transaction(create_sessionmaker(module_engine)) as session:
        await add_label(session, made.sae, 1, "words about " + "a very long thing of which there is much to say " * 6)
        done = await add_run(session, made.sae)
        failed = await add_run(session, bare.sae, ends="failed")
        items = [
            NewItem(each.slug, number, "why " * 60 * (number == 2))
            for each in (made.sae, bare.sae)
            for number in (1, 2)
        ]
        kept = await create_list(session, ListText("x" * 80, "so " * 200), items, actor=Actor("ada"))
    base = f"/saes/{made.sae.slug}"
    return [
        "/",
        base,
        "/saes/bare",
        f"{base}/features",
        f"{base}/features?q=zzz",
        f"{base}/features?view=cards",
        f"{base}/features/by-example?text=Some%20text",
        f"{base}/features/1",
        f"{base}/features/2?label=1",
        f"{base}/probe?text=Some%20text",
        "/label",
        "/lists",
        f"/lists/{kept.public_id}",
        f"/lists/{kept.public_id}/delete",
        "/runs",
        f"/runs/{done.id}",
        f"/runs/{failed.id}",
    ]


@pytest.mark.parametrize(("width", "theme"), [(1440, "light"), (390, "dark")])
async def test_pages_have_no_console_errors_shifts_or_horizontal_scroll(
    browser: Browser, live: str, addresses: list[str], problems: Problems, width: int, theme: str
) -> None:
    context = await browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme)
    page = await context.new_page()
    problems.watch(page)
    for address in addresses:
        response = await page.goto(live + address)
        assert response is not None
        assert response.status == 200, address
        await page.wait_for_function(DRAWN)
        assert await page.evaluate(SHIFT) < 0.02, address
        assert await page.evaluate(OVERFLOW) == 0, address
        assert await page.evaluate("document.documentElement.dataset.theme") == theme


@pytest.mark.own_database
async def test_search_open_and_label_a_feature_by_keyboard(page: Page, live: str, made: Synthetic) -> None:
    base = f"{live}/saes/{made.sae.slug}"
    await page.goto(f"{base}/features")
    await page.keyboard.press("/")
    await page.keyboard.type("violin")
    await expect(page).to_have_url(f"{base}/features?q=violin")
    await expect(page.locator("#status")).to_contain_text("of 60")
    await page.keyboard.press("Escape")
    await page.keyboard.press("j")
    await page.keyboard.press("j")
    await page.keyboard.press("k")
    first = page.locator(".feature-row").first
    await expect(first).to_be_focused()
    number = int(await first.locator(".feature-number").inner_text())
    await page.keyboard.press("Enter")
    await page.wait_for_url(f"{base}/features/{number}")  # and its scripts, which hear the keys

    await page.keyboard.press("l")
    await expect(page.locator("#explanation")).to_be_focused()
    await page.keyboard.type("strings & <i>bows</i>")
    await page.fill("#categories", "music")
    await page.locator("[name=confidence][value='4']").check()
    await page.locator("#explanation").press("Control+Enter")
    await expect(page.locator("#status")).to_have_text("Saved.")
    await expect(page.locator(".label-text")).to_have_text("strings & <i>bows</i>")
    await expect(page.locator("#labels")).to_contain_text("ada")
    await expect(page.locator("h1")).to_have_text("strings & <i>bows</i>")
    await expect(page.locator("[data-key=n]")).to_be_focused()

    await page.reload()
    await page.keyboard.press("l")
    await expect(page.locator("#explanation")).to_have_value("strings & <i>bows</i>")
    await page.fill("#explanation", "strings")
    await page.get_by_role("button", name="Save label").click()
    await expect(page.locator(".label-text")).to_have_text("strings")
    await page.get_by_text("2 versions").click()
    await expect(page.locator(".history li")).to_have_count(2)
    await expect(page.locator(".history")).to_contain_text("bows")
    await page.goto(f"{base}/features")
    await page.select_option("#label", "labelled")
    await expect(page).to_have_url(f"{base}/features?label=labelled")
    await expect(page.locator(".feature-label")).to_have_text(["strings"])


CURSOR = """() => {
  const field = document.activeElement;
  return [field.id, field.selectionStart, field.selectionEnd, field.value?.length];
}"""


@pytest.mark.own_database
async def test_label_one_feature_after_another_by_keyboard(page: Page, live: str, made: Synthetic) -> None:
    await page.goto(f"{live}/label")
    queue = [int(text) for text in await page.locator(".feature-number").all_inner_texts()]
    await page.keyboard.press("j")
    await page.keyboard.press("Enter")
    await page.wait_for_url(f"**/features/{queue[0]}?label=1")
    await expect(page.locator("#explanation")).to_be_focused()
    await page.keyboard.type("the first")
    await page.keyboard.press("Control+Enter")
    await expect(page.locator("[data-key=n]")).to_be_focused()
    await page.keyboard.press("n")
    await page.wait_for_url(f"**/features/{queue[1]}?label=1")
    await expect(page.locator("#explanation")).to_be_focused()
    await page.keyboard.type("the second")
    await page.keyboard.press("Control+Enter")
    await expect(page.locator("[data-key=n]")).to_be_focused()

    await page.keyboard.press("l")
    await expect(page.locator("#explanation")).to_be_focused()
    assert await page.evaluate(CURSOR) == ["explanation", 10, 10, 10]
    await page.goto(f"{live}/saes/{made.sae.slug}/features/{queue[0]}?label=1")
    await expect(page.locator("#explanation")).to_be_focused()
    assert await page.evaluate(CURSOR) == ["explanation", 9, 9, 9]

    await page.goto(f"{live}/label")
    await page.locator(".feature-row").first.click()
    await page.wait_for_url(f"**/features/{queue[2]}?label=1")
    await page.fill("#explanation", "the third")
    await page.keyboard.press("Control+Enter")
    await expect(page.locator("#status")).to_have_text("Saved.")
    await page.go_back()
    await expect(page.locator(".feature-number").first).to_have_text(str(queue[3]))


async def test_examples_open_in_place_with_a_tooltip_per_token(page: Page, live: str, made: Synthetic) -> None:
    await page.goto(f"{live}/saes/{made.sae.slug}/features/1")
    line = page.locator(".example-line").first
    await line.click()
    strip = page.locator(".example-open .strip")
    await expect(strip).to_be_visible()
    await expect(line).to_have_attribute("aria-expanded", "true")
    strongest = strip.locator(".top").first
    await strongest.focus()
    await expect(page.locator("#tip")).to_contain_text("of the maximum")
    position = re.search(r"position (\d+)", await page.locator("#tip").inner_text())
    assert position
    await page.keyboard.press("ArrowLeft")
    await expect(page.locator("#tip")).to_contain_text(f"position {int(position[1]) - 1}")
    await page.keyboard.press("Escape")
    await expect(page.locator("#tip")).to_be_hidden()
    await line.click()
    await expect(strip).to_be_hidden()
    await line.click()
    await expect(strip).to_be_visible()


async def test_more_button_and_bracket_keys_page_through_features(page: Page, live: str, made: Synthetic) -> None:
    base = f"{live}/saes/{made.sae.slug}"
    await page.goto(f"{base}/features?sort=index")
    await expect(page.locator(".feature-row")).to_have_count(50)
    await page.locator("[data-more]").click()
    await expect(page.locator(".feature-row")).to_have_count(60)
    await expect(page).to_have_url(f"{base}/features?sort=index")
    await page.goto(f"{base}/features/7")
    await page.keyboard.press("]")
    await page.wait_for_url(f"{base}/features/8")
    await page.keyboard.press("[")
    await page.wait_for_url(f"{base}/features/7")
    await page.keyboard.press("p")
    await page.wait_for_url(f"{base}/probe")
    await page.locator("h1").click()
    await page.keyboard.press("?")
    await expect(page.locator("#keys")).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(page.locator("#keys")).to_be_hidden()


async def test_theme_is_remembered_and_applies_to_charts(page: Page, live: str, made: Synthetic) -> None:
    await page.goto(f"{live}/saes/{made.sae.slug}")
    await page.wait_for_function(DRAWN)
    bar = page.locator(".chart-box .point path").first
    light = await bar.evaluate("bar => getComputedStyle(bar).fill")
    await page.locator("[data-toggle-theme]").click()
    assert await page.evaluate("document.documentElement.dataset.theme") == "dark"
    await expect(bar).not_to_have_css("fill", light)
    await page.goto(f"{live}/")
    assert await page.evaluate("document.documentElement.dataset.theme") == "dark"


async def test_probe_reports_that_inference_is_down_and_keeps_the_text(
    page: Page, live: str, made: Synthetic, problems: Problems
) -> None:
    await page.goto(f"{live}/saes/{made.sae.slug}/probe")
    await page.fill("#text", "The old violin")
    await page.get_by_role("button", name="Probe", exact=True).click()
    await expect(page.locator("#result [role=alert]")).to_contain_text("The inference process is not answering")
    await expect(page.locator("#text")).to_have_value("The old violin")
    await page.locator("#result").get_by_role("link", name="browse the features").click()
    await expect(page.locator("h1")).to_have_text("Features")
    problems.forgive("503")


@pytest.mark.own_database
async def test_run_page_updates_while_the_run_continues(
    page: Page, live: str, made: Synthetic, sessionmaker: async_sessionmaker[AsyncSession]
) -> None:
    async with transaction(sessionmaker) as session:
        run = await add_run(session, made.sae, ends="running")
    await page.goto(f"{live}/runs/{run.id}")
    await page.wait_for_function(DRAWN)
    async with transaction(sessionmaker) as session:
        stage = Stage("train", "Train the SAE", "running", 90_000, 100_000, "tokens", 90.0)
        await update_progress(session, run.id, [stage])
        await append_metrics(session, run.id, [MetricPoint(9_000, {"loss": 0.0123, "l0": 31.9})])
    await expect(page.locator(".stage.running progress")).to_have_attribute("value", "90000")
    await expect(page.locator(".stage.running .stage-time")).to_contain_text("left")
    await expect(page.locator("[data-metric=loss] .chart-latest")).to_have_text("0.0123")
    async with transaction(sessionmaker) as session:
        await finish_run(session, run.id, {"explained_variance": 0.83})
    await expect(page.get_by_role("link", name="Browse features")).to_be_visible()
    await expect(page.locator("[data-after-end]")).to_contain_text("0.830")


@pytest.mark.own_database
async def test_home_page_follows_a_run_until_it_ends(
    page: Page, live: str, made: Synthetic, sessionmaker: async_sessionmaker[AsyncSession]
) -> None:
    async with transaction(sessionmaker) as session:
        run = await add_run(session, made.sae, ends="running")
    await page.goto(live)
    await expect(page.locator(".run-card")).to_contain_text("stage 2 of 3")
    async with transaction(sessionmaker) as session:
        await add_label(session, made.sae, 3, "law")
        await finish_run(session, run.id, {})
    await expect(page.locator(".run-card")).to_contain_text("done")
    await expect(page.locator(".sae-row")).to_contain_text("1")


@pytest.mark.own_database
async def test_comparison_appears_when_the_run_that_makes_it_has_ended(
    page: Page, live: str, engine: AsyncEngine, sessionmaker: async_sessionmaker[AsyncSession]
) -> None:
    narrow = await make_sae(engine, slug=NARROW, features=24, sequences=80)
    wide = await make_sae(engine, slug=WIDE, features=60, sequences=80)
    stages = [Stage("compare", "Compare the features of both", "running", 10, 84, "features", 1.0)]
    params = {"a": NARROW, "b": WIDE}
    async with transaction(sessionmaker) as session:
        run = await create_run(session, kind="compare", title="Compare", params=params, stages=stages, created_by="ada")
        await start_run(session, run.id)
    await page.goto(f"{live}/compare?a={WIDE}&b={NARROW}")
    await expect(page.locator(".run-card")).to_contain_text("Compare the features of both")
    await compare(engine, narrow, wide)
    async with transaction(sessionmaker) as session:
        await finish_run(session, run.id, {})
    await expect(page.locator(".lead")).to_contain_text("features")
    await expect(page.locator(".run-card")).to_have_count(0)
    await page.wait_for_function(DRAWN)


@pytest.mark.own_database
async def test_browse_label_and_probe_without_javascript(
    browser: Browser, live: str, made: Synthetic, problems: Problems
) -> None:
    context = await browser.new_context(java_script_enabled=False)
    page = await context.new_page()
    base = f"{live}/saes/{made.sae.slug}"
    await page.goto(f"{base}/features")
    await page.fill("#q", "river")
    await page.get_by_role("button", name="Apply").click()
    await page.locator(".feature-row").first.click()
    await page.locator(".example-line").first.click()
    await expect(page.locator(".strip")).to_be_visible()
    await page.get_by_role("link", name="Back to feature").click()
    await page.locator(".label-form summary").click()
    await page.fill("#explanation", "water")
    await page.get_by_role("button", name="Save label").click()
    await expect(page.locator("h1")).to_have_text("water")
    await expect(page.get_by_role("link", name="Next without a label")).to_be_visible()
    await page.get_by_role("link", name="Probe", exact=True).click()
    await page.fill("#text", "a river")
    await page.get_by_role("button", name="Probe", exact=True).click()
    await expect(page.locator("#result [role=alert]")).to_be_visible()
    await expect(page.locator("#text")).to_have_value("a river")
