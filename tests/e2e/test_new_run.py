"""Runs from the browser: one of each kind queued and done, cancelled, retried; and the forms without JavaScript."""

from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, expect
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from app.runs.execution import execute
from app.runs.job_context import JobContext
from app.settings import Settings
from tests.e2e.conftest import Problems
from tests.e2e.run_pages import cancel_run, queue_run, retry_run
from tests.factories import Synthetic
from tests.tiny import CORPUS_FILE, tiny_model

pytestmark = pytest.mark.browser


@pytest.fixture
def ctx(settings: Settings, engine: AsyncEngine, sessionmaker: async_sessionmaker[AsyncSession]) -> JobContext:
    return JobContext(settings, engine, sessionmaker)


async def done(page: Page, ctx: JobContext, run: int) -> None:
    """Do a run as a worker does, and see its page follow."""
    await execute(ctx, run)
    await expect(page.locator(".run-line")).to_contain_text("Done")


async def test_a_run_of_each_kind_is_queued_and_one_is_cancelled_and_retried(
    page: Page, live: str, ctx: JobContext, tmp_path: Path
) -> None:
    model = str(tiny_model(tmp_path / "tiny-llama"))
    corpus = {"corpus": str(CORPUS_FILE), "length": "32"}
    await page.goto(f"{live}/runs")
    await page.goto(f"{live}/runs/new")
    await page.get_by_role("link", name="Train", exact=True).click()
    train = await queue_run(
        page, model=model, hook="resid_post.1", width="64", k="4", samples="4000", name="mine", **corpus
    )
    await expect(page.locator(".run-line")).to_contain_text("next in the queue")
    await expect(page.locator(".run-idle")).to_contain_text("No worker is running")

    await cancel_run(page)
    await retry_run(page)
    await done(page, ctx, train)

    await page.goto(live)
    await page.get_by_role("link", name="Index this SAE").click()
    await expect(page.locator("#param-sae")).to_have_value("mine")
    await done(page, ctx, await queue_run(page, **corpus))
    await page.goto(f"{live}/runs/new/evaluate")
    await done(page, ctx, await queue_run(page, sae="mine", predictions="256", **corpus))
    shared = tmp_path / "shared"
    await page.goto(f"{live}/runs/new/export")
    await done(page, ctx, await queue_run(page, sae="mine", destination=str(shared), format="saelens"))
    assert (shared / "cfg.json").exists()
    await page.goto(f"{live}/runs/new/import")
    await done(page, ctx, await queue_run(page, source=str(shared), name="theirs", model=model))
    await page.goto(f"{live}/runs/new/compare?a=mine")
    await done(page, ctx, await queue_run(page, b="theirs"))

    await page.goto(f"{live}/runs?kind=export")
    await expect(page.locator(".run-row")).to_have_count(1)


async def test_a_form_says_what_is_missing_and_what_it_costs_as_it_is_filled_in(
    page: Page, live: str, made: Synthetic, problems: Problems, tmp_path: Path
) -> None:
    await page.goto(f"{live}/runs/new/export")
    check = page.locator("#check")
    await expect(check).to_be_hidden()
    await page.select_option("#param-sae", made.sae.slug)
    await expect(check).to_contain_text("Folder: This is needed.")
    await page.fill("#param-destination", str(tmp_path / "shared"))
    await page.select_option("#param-format", "jsonl")
    await expect(check).to_contain_text("Ready to queue")
    await page.fill("#param-features", "5-3")
    await page.get_by_role("button", name="Queue the run").click()
    await expect(page.locator("#param-features-error")).to_contain_text("runs backwards")
    await expect(page.locator("#param-features")).to_be_focused()
    await expect(page.locator("#param-destination")).to_have_value(str(tmp_path / "shared"))
    problems.forgive("422")


async def test_forms_buttons_and_filters_work_without_javascript(browser: Browser, live: str, made: Synthetic) -> None:
    page = await (await browser.new_context(java_script_enabled=False)).new_page()
    await page.goto(f"{live}/runs/new/export")
    await page.get_by_role("button", name="Check without queueing").click()
    await expect(page.locator("#param-destination-error")).to_have_text("This is needed.")
    await page.select_option("#param-sae", made.sae.slug)
    await page.fill("#param-destination", "/tmp/nowhere/shared")
    await page.select_option("#param-format", "labels")
    await page.get_by_role("button", name="Check without queueing").click()
    await expect(page.locator("#check")).to_contain_text("Ready to queue")
    await page.get_by_role("button", name="Queue the run").click()
    await expect(page.locator("h1")).to_have_text(f"Export {made.sae.slug} as labels")
    await page.goto(f"{live}/runs")
    await page.locator(".run-card").get_by_role("link", name="Cancel").click()
    await page.get_by_role("button", name="Cancel the run").click()
    await expect(page.locator(".run-line")).to_contain_text("Cancelled")
    await page.goto(f"{live}/runs")
    await page.get_by_role("link", name="cancelled", exact=True).click()
    await expect(page.locator(".run-row")).to_have_count(1)
    await page.locator(".run-row").get_by_role("link", name="Retry").click()
    await page.get_by_role("button", name="Retry the run").click()
    await expect(page.locator(".run-line")).to_contain_text("Queued")
