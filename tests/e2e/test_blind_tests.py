"""A blind test by keyboard: one item at a time, undone, kept over a reload, submitted."""

from playwright.async_api import Page, expect

from tests.e2e.pages import Site


async def test_a_test_is_answered_by_keyboard(page: Page, own_site: Site) -> None:
    address = f"{own_site.url}/tests/{own_site.names['test']}"
    await page.goto(address)
    progress, shown = page.locator("[data-progress]"), page.locator(".blind-item:visible")
    await expect(progress).to_have_text("1 of 20")
    await expect(shown).to_have_count(1)
    await page.keyboard.press("y")
    await page.keyboard.press("n")
    await expect(progress).to_have_text("3 of 20")
    await page.keyboard.press("u")
    await expect(progress).to_have_text("2 of 20")
    await expect(shown.locator("input:checked")).to_have_count(0)
    await page.keyboard.press("n")
    await shown.get_by_label("Yes").click()
    await page.reload()  # as after a crash
    await expect(progress).to_have_text("4 of 20")
    for _ in range(17):
        await page.keyboard.press("n")
    await expect(progress).to_have_text("All 20 answered: submit, or go back with u.")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", name="Detection test: result")).to_be_visible()
    await expect(page.locator(".blind-answered b")).to_have_count(20)
    said = await page.locator(".blind-answered b").all_inner_texts()
    assert ["yes" in each for each in said] == [True, False, True] + [False] * 17
