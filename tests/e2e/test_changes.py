"""Two people on one feature: what one does appears on the other's open page, and nothing that is typed is lost."""

import pytest
from playwright.async_api import Page, expect
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from app.services.actors import Actor
from app.services.comments import add_comment
from tests.factories import Synthetic, add_label
from tests.labelling import label, make_set

pytestmark = pytest.mark.browser


async def test_what_others_do_appears_and_leaves_what_is_typed(
    page: Page, live: str, made: Synthetic, sessionmaker: async_sessionmaker[AsyncSession]
) -> None:
    async with page.expect_response(lambda response: "/events" in response.url):
        await page.goto(f"{live}/saes/{made.sae.slug}/features/5")
    await page.locator(".label-form summary").click()
    await page.fill("#explanation", "half a thought")
    async with sessionmaker.begin() as session:
        await add_label(session, made.sae, 5, "rivers & <i>lakes</i>", author="grace")
    await expect(page.locator(".label-text")).to_have_text("rivers & <i>lakes</i>")
    await expect(page.locator("h1")).to_have_text("rivers & <i>lakes</i>")
    await expect(page.locator("#explanation")).to_have_value("half a thought")
    await expect(page.locator("#status")).to_have_text("The labels changed.")

    await page.locator("#comments > details > summary").click()
    await page.fill("#comment-new-text", "mine")
    async with sessionmaker.begin() as session:
        said = await add_comment(session, made.sae, 5, actor=Actor("grace"), text="and boats?")
    await expect(page.locator("#comments[data-stale]")).to_be_attached()
    await expect(page.locator("#comment-new-text")).to_have_value("mine")
    await page.get_by_role("button", name="Comment", exact=True).click()
    await expect(page.locator(".comment-text")).to_have_text(["and boats?", "mine"])

    await page.locator(".comments details summary").first.click()
    await page.locator(".comments textarea").first.fill("boats too")
    await page.get_by_role("button", name="Answer", exact=True).first.click()
    await expect(page.locator(".answers .comment-text")).to_have_text("boats too")
    await page.locator(".answers").get_by_role("button", name="Delete").click()
    await expect(page.locator(".answers")).to_have_count(0)
    async with sessionmaker.begin() as session:
        await add_comment(session, made.sae, 5, actor=Actor("grace"), text="yes", answers=said.id)
    await expect(page.locator(".answers .comment-text")).to_have_text("yes")


async def test_progress_of_a_label_set_follows_those_who_label(
    page: Page, live: str, made: Synthetic, engine: AsyncEngine, sessionmaker: async_sessionmaker[AsyncSession]
) -> None:
    of = await make_set(engine, made.sae, needed=1)
    async with page.expect_response(lambda response: "/events" in response.url):
        await page.goto(f"{live}/labelsets/{of.id}")
    for done in (1, 2):  # the part is replaced, and goes on listening
        async with sessionmaker.begin() as session:
            await label(session, made.sae, done, "grace", "rivers", "names")
        await expect(page.locator("#set-progress dd").first).to_have_text(f"{done} of 24")
    await expect(page.locator("h1")).to_be_visible()
