"""Two people on one feature: what one does appears on the other's open page, and nothing that is typed is lost."""

import asyncio

import pytest
from playwright.async_api import Page, Request, Route, expect
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from app.services.actors import Actor
from app.services.comments import add_comment
from tests.e2e.conftest import Problems
from tests.factories import Synthetic, add_label
from tests.labelling import label, make_set

pytestmark = pytest.mark.browser

FRAME = "() => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)))"
HEARD = """address => new Promise((resolve) => {
  const source = new EventSource(address);
  source.addEventListener("changed", () => { source.close(); resolve(); });
})"""


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


@pytest.mark.parametrize("told", ["before its answer", "after its answer", "when it connects"])
@pytest.mark.parametrize("form", ["stays", "was replaced"])
async def test_a_page_does_not_ask_for_what_it_saved_itself(
    page: Page, live: str, made: Synthetic, sessionmaker: async_sessionmaker[AsyncSession], told: str, form: str
) -> None:
    feature = f"{live}/saes/{made.sae.slug}/features/5"
    saved = asyncio.Event()
    asked: list[Request] = []

    async def connect(route: Route) -> None:
        if told == "when it connects":
            await saved.wait()
        await route.continue_()

    async def save(route: Route) -> None:
        if route.request.method == "GET":
            asked.append(route.request)
            await route.continue_()
            return
        answer = await route.fetch()
        if told == "before its answer":  # another stream has told of it, and so has that of the page
            await page.evaluate(HEARD, f"{feature}/events")
        if form == "was replaced":
            await page.evaluate("document.querySelector('.label-form').remove()")
        await route.fulfill(response=answer)

    await page.route("**/events*", connect)
    await page.route("**/labels", save)
    await page.goto(feature)
    await page.locator(".label-form summary").click()
    await page.fill("#explanation", "rivers")
    await page.get_by_role("button", name="Save label").click()
    await expect(page.locator(".label-text")).to_have_text("rivers")
    await expect(page.locator("#status")).to_have_text("Saved.")
    saved.set()

    async with page.expect_response(lambda response: response.request in asked), sessionmaker.begin() as session:
        await add_label(session, made.sae, 5, "lakes", author="grace")
    await expect(page.locator(".label-text")).to_have_text(["lakes", "rivers"])
    assert len(asked) == 1


async def test_what_could_not_be_fetched_is_fetched_later(
    page: Page, problems: Problems, live: str, made: Synthetic, sessionmaker: async_sessionmaker[AsyncSession]
) -> None:
    asked = 0

    async def refuse_twice(route: Route) -> None:
        nonlocal asked
        asked += 1
        if asked == 1:
            await route.fulfill(status=503)
        elif asked == 2:
            await route.abort()
        else:
            await route.continue_()

    await page.clock.install()
    async with page.expect_response(lambda response: "/events" in response.url):
        await page.goto(f"{live}/saes/{made.sae.slug}/features/5")
    await page.route("**/comments", refuse_twice)
    async with sessionmaker.begin() as session:
        await add_comment(session, made.sae, 5, actor=Actor("grace"), text="boats?")
    async with asyncio.timeout(15):
        while asked < 3:
            await page.clock.run_for(30_000)
    await expect(page.locator(".comment-text")).to_have_text("boats?")
    problems.forgive("503")
    problems.forgive("ERR_FAILED")
    problems.forgive("htmx:afterRequest")
    problems.forgive("htmx:sendError")


async def test_an_answer_that_comes_late_takes_nothing_back(
    page: Page, live: str, made: Synthetic, sessionmaker: async_sessionmaker[AsyncSession]
) -> None:
    feature = f"{live}/saes/{made.sae.slug}/features/5"
    asked, saved = asyncio.Event(), asyncio.Event()

    async def answer_late(route: Route) -> None:
        answer = await route.fetch()
        if route.request.method == "GET":
            asked.set()
            await saved.wait()
        await route.fulfill(response=answer)

    async with page.expect_response(lambda response: "/events" in response.url):
        await page.goto(feature)
    await page.route("**/comments", answer_late)
    async with sessionmaker.begin() as session:
        await add_comment(session, made.sae, 5, actor=Actor("grace"), text="boats?")
    async with asyncio.timeout(15):
        await asked.wait()
    await page.locator("#comments > details > summary").click()
    await page.fill("#comment-new-text", "mine")
    await page.get_by_role("button", name="Comment", exact=True).click()
    await expect(page.locator(".comment-text")).to_have_text(["boats?", "mine"])
    async with page.expect_response("**/comments"):
        saved.set()
    await page.evaluate(FRAME)
    await expect(page.locator(".comment-text")).to_have_text(["boats?", "mine"])


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

    answered = 0

    async def label_before_the_answer(route: Route) -> None:
        nonlocal answered
        answer = await route.fetch()
        answered += 1
        if answered == 1:  # its answer does not have what happens now
            async with page.expect_response(lambda response: "/events" in response.url):
                heard = asyncio.create_task(page.evaluate(HEARD, f"{live}/labelsets/{of.id}/events"))
            async with sessionmaker.begin() as session:
                await label(session, made.sae, 4, "grace", "rivers", "names")
            await heard
        await route.fulfill(response=answer)

    await page.route(f"{live}/labelsets/{of.id}", label_before_the_answer)
    async with sessionmaker.begin() as session:
        await label(session, made.sae, 3, "grace", "rivers", "names")
    await expect(page.locator("#set-progress dd").first).to_have_text("4 of 24")
