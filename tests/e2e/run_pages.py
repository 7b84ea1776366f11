"""What people do with runs in the browser: queue one by its form, cancel it, retry it."""

from playwright.async_api import Page, expect


async def queue_run(page: Page, **values: str) -> int:
    """Fill in the form of the page and queue the run; return its number."""
    for name, value in values.items():
        control = page.locator(f"#param-{name}")
        if not await control.is_visible():
            await page.get_by_text("More options").click()
        if await control.evaluate("element => element.tagName") == "SELECT":
            await control.select_option(value)
        else:
            await control.fill(value)
    await page.get_by_role("button", name="Queue the run").click()
    await expect(page.locator(".run-line")).to_contain_text("Queued")
    return int(page.url.rpartition("/")[2])


async def cancel_run(page: Page) -> None:
    """Cancel the run that the page shows."""
    await page.get_by_role("link", name="Cancel", exact=True).click()
    await expect(page.locator("main")).to_contain_text("nothing is lost")
    await page.get_by_role("button", name="Cancel the run").click()
    await expect(page.locator(".run-line")).to_contain_text("Cancelled")


async def retry_run(page: Page) -> None:
    """Retry the run that the page shows."""
    await page.get_by_role("link", name="Retry", exact=True).click()
    await page.get_by_role("button", name="Retry the run").click()
    await expect(page.locator(".run-line")).to_contain_text("Queued")
