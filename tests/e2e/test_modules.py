"""Modules in a real browser: their caches, and numbers that read as the templates write them."""

import random
from pathlib import Path

import pytest
from fastapi import FastAPI, Response
from playwright.async_api import Page

from app.paths import STATIC
from app.web import static
from app.web.components import formatting
from app.web.rendering import module
from app.web.static import VersionedStaticFiles, static_url
from tests.web.serving import serving

pytestmark = pytest.mark.browser

random_numbers = random.Random(0)
NUMBERS = [
    *(
        0,
        1,
        0.5,
        2.5,
        0.125,
        0.375,
        9.995,
        9.996,
        99.95,
        999.5,
        1000,
        1234.5,
        196_608,
        12_345_678.9,
        1e-6,
        4.2e-7,
        1.5e-9,
    ),
    *(float(f"{value:.3g}") for value in (10 ** random_numbers.uniform(-8, 7) for _ in range(200))),
    *(10 ** random_numbers.uniform(-8, 7) for _ in range(400)),
    *(number / 1024 for number in range(1, 4096, 7)),
]
SHARES = [value for value in NUMBERS if value <= 1]


def app(folder: Path, *modules: str) -> FastAPI:
    """A page of these modules, and static files from a folder."""
    app = FastAPI()
    app.mount("/static", VersionedStaticFiles(directory=folder))

    @app.get("/")
    def page() -> Response:
        module.cache_clear()
        html = f'<!doctype html><title>page</title><link rel="icon" href="data:,">{module(*modules)}'
        return Response(html, media_type="text/html")

    return app


async def test_a_changed_helper_reaches_a_browser_that_cached_the_module(
    page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "js/lib").mkdir(parents=True)
    (tmp_path / "js/page.js").write_text('import { word } from "./lib/word.js";\ndocument.title = word;\n')
    (tmp_path / "js/lib/word.js").write_text('export const word = "before";\n')
    monkeypatch.setattr(static, "STATIC", tmp_path)
    static_url.cache_clear()
    requested: list[str] = []
    page.on("request", lambda request: requested.append(request.url))
    with serving(app(tmp_path, "page")) as url:
        await page.goto(url)
        assert await page.title() == "before"
        page_module, helper = (url + static_url(path) for path in ("js/page.js", "js/lib/word.js"))
        assert {page_module, helper} <= set(requested)

        (tmp_path / "js/lib/word.js").write_text('export const word = "after";\n')
        static_url.cache_clear()  # as a new process
        await page.goto(url)
        assert await page.title() == "after"
    static_url.cache_clear()
    module.cache_clear()


async def test_scripts_write_numbers_as_templates_do(page: Page) -> None:
    calls = [(name, value) for name in ("significant", "percentile") for value in NUMBERS]
    calls += [(name, share) for name in ("percent", "round_percent") for share in SHARES]
    calls += [("count", value) for value in (0, 7, 999, 1000, 196_608, 12_345_678)]
    with serving(app(STATIC)) as url:
        await page.goto(url)
        written = await page.evaluate(
            """async ([address, calls]) => {
              const format = await import(address);
              return calls.map(([name, value]) => format[name.replace(/_(.)/, (_, c) => c.toUpperCase())](value));
            }""",
            [url + static_url("js/lib/format.js"), calls],
        )
    expected = [getattr(formatting, name)(value) for name, value in calls]
    assert [
        (call, script, template)
        for call, script, template in zip(calls, written, expected, strict=True)
        if script != template
    ] == []
