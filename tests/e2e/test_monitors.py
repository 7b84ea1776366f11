"""A monitor's open page: new alerts are announced in a quiet line, and shown when the reader asks."""

import pytest
from playwright.async_api import Page, expect
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from tests.factories import Synthetic
from tests.monitors import add_alerts, add_monitor

pytestmark = pytest.mark.browser


async def test_new_alerts_are_announced_without_moving_what_is_read(
    page: Page, live: str, made: Synthetic, sessionmaker: async_sessionmaker[AsyncSession]
) -> None:
    async with sessionmaker.begin() as session:
        await add_monitor(session, made.sae)
        await add_alerts(session, "kings", number=2)
    async with page.expect_response(lambda response: "/events" in response.url):
        await page.goto(f"{live}/monitors/kings")
    line, alerts = page.locator(".monitor-newer"), page.locator(".monitor-alerts > li")
    await expect(alerts).to_have_count(2)
    await page.fill("#text", "half a thought")
    before = await alerts.first.bounding_box()
    async with sessionmaker.begin() as session:
        await add_alerts(session, "kings", number=2)
    await expect(line).to_have_text("2 new alerts · show")
    async with sessionmaker.begin() as session:
        await add_alerts(session, "kings", number=1)  # which joins the act of those before
    await expect(line).to_have_text("3 new alerts · show")
    assert await alerts.first.bounding_box() == before
    await expect(alerts).to_have_count(2)

    await line.get_by_role("link", name="show").click()
    await expect(alerts).to_have_count(5)
    await expect(line).to_have_text("")
    await expect(page.locator("#text")).to_have_value("half a thought")
    await expect(page.locator("#alerts")).to_be_focused()
    async with sessionmaker.begin() as session:
        await add_alerts(session, "kings", number=1)
    await expect(line).to_have_text("1 new alert · show")  # the part was replaced, and goes on listening
