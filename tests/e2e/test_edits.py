"""An edit in a real browser: saved, opened, given a fact, measured, downloaded, shared and deleted."""

import json
from pathlib import Path

import pytest
from playwright.async_api import Page, expect
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from app.runs.execution import execute
from app.runs.job_context import JobContext
from app.settings import Settings
from sae_core.interventions import load_edit
from tests.app.inference.dictionaries import Dictionary
from tests.e2e.pages import PROMPT, Site
from tests.e2e.run_pages import queue_run
from tests.tiny import CORPUS_FILE

pytestmark = [pytest.mark.browser, pytest.mark.slow]

SAVE = """(fields) => {
  const form = document.createElement("form");
  form.method = "post";
  form.action = "/edits";
  for (const [name, value] of Object.entries(fields)) {
    const field = document.createElement("textarea");
    field.name = name;
    field.value = value;
    form.append(field);
  }
  document.body.append(form);
  form.submit();
}"""
"""Sends what templates/edits/_save.html sends."""


async def test_an_edit_from_save_to_delete(
    page: Page,
    site: Site,
    settings: Settings,
    dictionary: Dictionary,
    engine: AsyncEngine,
    sessionmaker: async_sessionmaker[AsyncSession],
    tmp_path: Path,
) -> None:
    change = {"op": "clamp", "value": 40.0, "feature": 1, "positions": "all"}
    texts = {"prompt": PROMPT, "before": " it was the age", "after": " it was <b>spring</b>"}
    fields = {"title": "Spring", "sae": site.names["live"], "interventions": json.dumps([change]), **texts}
    await page.goto(f"{site.url}/edits")
    await page.evaluate(SAVE, fields)
    await page.wait_for_url("**/edits/spring")
    await expect(page.locator(".edit-sentence")).to_contain_text("to 40.0 on every token but BOS")
    await expect(page.locator(".edit-sides")).to_contain_text("<b>spring</b>")

    await page.get_by_text("Change title, notes and facts").click()
    await page.fill("#prompts", "It was the best of | times | worlds\nIt was the worst of | times | worlds")
    await page.fill("#neighbours", "It was the age of | wisdom | stone")
    await page.get_by_role("button", name="Save", exact=True).click()
    await page.wait_for_url("**/edits/spring")

    await page.get_by_role("link", name="Measure it").click()
    await page.wait_for_url("**/runs/new/measure-edit*")
    number = await queue_run(page, corpus=str(CORPUS_FILE), held_out="128")
    own = dictionary.settings.model_copy(update={"database_url": settings.database_url})
    await execute(JobContext(own, engine, sessionmaker), number)
    await page.goto(f"{site.url}/edits/spring")
    await expect(page.locator(".edit-finding")).to_contain_text("as much as the same change along random features")
    await expect(page.locator(".edit-figures").last).to_contain_text("neighbouring facts, which should stay")

    async with page.expect_download() as downloading:
        await page.get_by_role("link", name="Download", exact=True).click()
    file = tmp_path / "spring.json"
    await (await downloading.value).save_as(file)
    assert load_edit(file).model_sha256 == dictionary.model.weights_sha256
    evidence = json.loads(file.read_text(encoding="utf-8"))["evidence"]
    assert evidence["prompts"][0]["after"] == " it was <b>spring</b>"
    assert evidence["measured"]["facts"]["prompts"]["prompts"] == 2

    await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    await page.get_by_role("button", name="Copy link").click()
    await expect(page.locator("[data-copy-link]")).to_have_text("Link copied")
    assert await page.evaluate("navigator.clipboard.readText()") == page.url
    await page.get_by_role("link", name="Open in Steer").click()
    await page.wait_for_url("**/steer?*")
    await expect(page.locator("#text")).to_have_value(PROMPT)

    await page.goto(f"{site.url}/edits/spring/delete")
    await page.get_by_role("button", name="Delete the edit").click()
    await page.wait_for_url("**/edits")
    await expect(page.locator(".saved-lists")).not_to_contain_text("Spring")
