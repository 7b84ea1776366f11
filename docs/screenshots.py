"""Retake the pictures of the docs: make the demo at two widths, serve it, and walk docs/tour.md, docs/debugging.md
and docs/labelling.md in Chromium.

`make screenshots` runs it. The demo is made under SEESAE_HOME unless it is there already; nothing else is changed.
"""

import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from label_together import label_together
from playwright.sync_api import Page, sync_playwright

IMAGES = Path(__file__).parent / "images"
SEESAE = Path(sys.executable).with_name("seesae")
WIDE, NARROW = "smollm2-135m-l9-batchtopk-4096", "smollm2-135m-l9-batchtopk-1024"
SPANISH = "La casa de mi abuela tiene un jardín muy grande con flores rojas."
NEARLY = "The lake covers nearly two thirds of the island."
CAPITAL = "The capital of Australia is the city of"
TRIED = "El perro de la vecina se llama Luna.\nThe neighbour's dog is called Luna."
WINDOW = {"width": 1200, "height": 760}


@contextmanager
def serving(environment: dict[str, str] | None = None) -> Iterator[str]:
    """The site, on a port that is free."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([SEESAE, "serve", "--port", str(port)], env=environment)
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 60
        while not _is_ready(url):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("seesae serve does not start; what it says stands above.")
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=30)


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/readyz").is_success
    except httpx.TransportError:
        return False


def take(page: Page, name: str, *, at: str = "") -> None:
    """Save what the window shows, scrolled to the element `at`; less where the page ends before the window is full."""
    top = 0
    if at:
        top = page.locator(at).first.evaluate(
            """(element) => {
              scrollTo(0, element.getBoundingClientRect().top + scrollY - 16);
              return Math.max(0, element.getBoundingClientRect().top - 16);
            }"""
        )
    page.wait_for_function(
        """() => [...document.querySelectorAll("[data-chart]")].every((box) => {
          const { top, bottom } = box.getBoundingClientRect();
          return top > innerHeight || bottom < 0 || box.querySelector(".main-svg");
        })"""
    )
    page.mouse.move(0, 0)  # no element is shown as pointed at
    page.screenshot(
        path=IMAGES / f"{name}.png", clip={"x": 0, "y": top, "width": WINDOW["width"], "height": WINDOW["height"] - top}
    )
    print(f"{name}.png")


def walk(page: Page, url: str) -> None:
    """The paths of docs/tour.md and docs/debugging.md, click by click."""
    page.goto(f"{url}/saes/{WIDE}/features")
    page.get_by_role("link", name="by example").first.click()
    page.fill("#text", SPANISH)
    page.get_by_role("button", name="Find features").click()
    particles = page.locator("[data-row]", has_text=re.compile(r"Le\s+La\s+von")).first
    particles.wait_for(timeout=120_000)
    take(page, "tour-by-example", at="#by-example-form")
    particles.click()
    page.fill("#try-text", TRIED)
    page.get_by_role("button", name="Try", exact=True).click()
    page.locator(".tried").wait_for()
    take(page, "tour-try", at="#try")

    page.goto(f"{url}/saes/{WIDE}")
    take(page, "tour-health", at=".overview-pair")
    page.get_by_role("row", name="dense").get_by_role("link").click()
    page.locator("[data-row]").first.wait_for()
    take(page, "tour-dense")
    page.goto(f"{url}/saes/{WIDE}/map")
    page.locator("[data-map][data-ready]").wait_for()
    take(page, "tour-map")

    page.goto(f"{url}/compare?a={NARROW}&b={WIDE}&show=split-a")
    page.locator("[data-row]", has_text=re.compile(r"north\s+western\s+northern")).first.click()
    page.wait_for_url("**feature=*")
    take(page, "tour-parts", at="#parts")
    page.goto(f"{url}/compare?a={NARROW}&b={WIDE}")
    take(page, "tour-compare")

    page.goto(f"{url}/saes/{WIDE}/features?q=trees")
    page.locator("[data-row]", has_text="fruit").first.click()
    page.wait_for_url("**/features/*")
    take(page, "feature")

    page.goto(f"{url}/saes/{WIDE}/features/by-example")
    page.fill("#text", NEARLY)
    page.get_by_role("button", name="Find features").click()
    page.locator(".pick", has_text="nearly").click(timeout=120_000)
    page.locator("#example-tokens + p", has_text="1 of").wait_for()
    page.locator("[data-row]", has_text="almost").first.click()
    page.wait_for_url("**/features/*")
    page.locator("#draw button").scroll_into_view_if_needed()
    page.get_by_role("button", name="Draw").click()
    page.locator("#drawn .examples").wait_for()
    take(page, "tour-range", at=".chart")

    page.goto(f"{url}/saes/{WIDE}/attribute")
    page.fill("#text", CAPITAL)
    page.get_by_role("button", name="Attribute", exact=True).click()
    page.get_by_role("row", name="Canberra").get_by_role("button", name="As rival").click(timeout=120_000)
    page.get_by_role("heading", name="and not").wait_for()
    take(page, "debugging-attribute", at="[data-attribution]")


def main() -> None:
    for width in ("4096", "1024"):
        subprocess.run([SEESAE, "demo", "--width", width, "--no-serve"], check=True)
    IMAGES.mkdir(exist_ok=True)
    chromium = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-headless-shell")
    with serving() as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport=WINDOW, color_scheme="light")
        walk(page, url)
        browser.close()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        label_together(browser, WIDE, serving, take)
        browser.close()


if __name__ == "__main__":
    main()
