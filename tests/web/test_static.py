"""Static files: named by their content and cached for ever, or revalidated each time; compressed once; modules."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from app.paths import STATIC
from app.settings import Settings
from app.web import static
from app.web.static import VersionedStaticFiles, classic_script, imports, static_url
from tests.web.site import site

SHEET = "css/tokens.css"
FONT = "vendor/inter-5.3.0.latin-wght.woff2"
MODULES = sorted({str(path.relative_to(STATIC)) for path in (STATIC / "js").rglob("*.js")} - {"js/theme.js"})
"""All scripts but the one that runs before the first paint."""


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with site(Settings(database_url="postgresql://127.0.0.1:1/none", home=tmp_path)) as client:
        yield client


@pytest.mark.parametrize("address", [static_url(SHEET), static_url(FONT), f"/static/{FONT}"])
async def test_an_address_with_the_hash_is_cached_for_ever(client: httpx.AsyncClient, address: str) -> None:
    response = await client.get(address)
    assert response.status_code == 200
    assert response.headers["cache-control"] == "public, max-age=31536000, immutable"


@pytest.mark.parametrize("address", [f"/static/{SHEET}", "/static/css/tokens.0123456789ab.css"])
async def test_any_other_address_gives_the_file_to_be_revalidated(client: httpx.AsyncClient, address: str) -> None:
    response = await client.get(address)
    assert response.text == (STATIC / SHEET).read_text()
    assert response.headers["cache-control"] == "public, no-cache"
    unchanged = await client.get(address, headers={"If-None-Match": response.headers["etag"]})
    assert unchanged.status_code == 304


@pytest.mark.parametrize("path", [SHEET, "js/theme.js", "vendor/plotly-basic-4.1.1.min.js"])
async def test_text_is_compressed_without_changes(client: httpx.AsyncClient, path: str) -> None:
    response = await client.get(static_url(path), headers={"Accept-Encoding": "gzip"})
    plain = await client.get(static_url(path), headers={"Accept-Encoding": "identity"})
    assert response.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert response.content == plain.content == (STATIC / path).read_bytes()
    assert int(response.headers["content-length"]) < len(plain.content)
    assert response.headers["content-type"] == plain.headers["content-type"]
    assert {answer.headers["vary"] for answer in (response, plain)} == {"Accept-Encoding"}


async def test_a_file_is_compressed_once(client: httpx.AsyncClient) -> None:
    static._gzipped.cache_clear()
    for _ in range(3):
        await client.get(static_url(SHEET))
    assert static._gzipped.cache_info().misses == 1


async def test_a_font_is_not_compressed_again(client: httpx.AsyncClient) -> None:
    response = await client.get(static_url(FONT), headers={"Accept-Encoding": "gzip"})
    assert "content-encoding" not in response.headers
    assert response.content == (STATIC / FONT).read_bytes()


async def test_a_range_of_a_file_is_not_compressed(client: httpx.AsyncClient) -> None:
    response = await client.get(static_url(SHEET), headers={"Accept-Encoding": "gzip", "Range": "bytes=0-9"})
    assert response.status_code == 206
    assert response.content == (STATIC / SHEET).read_bytes()[:10]


@pytest.mark.parametrize(
    "path",
    ["/static/nothing.css", "/static/nothing.0123456789ab.css", "/static/../app/main.py", "/static/%2e%2e/app/main.py"],
)
async def test_an_unknown_file_is_not_found(client: httpx.AsyncClient, path: str) -> None:
    assert (await client.get(path)).status_code == 404


# --- modules


@pytest.fixture
async def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[httpx.AsyncClient]:
    """Serves a module that imports one that imports another, from a folder that a test may change."""
    (tmp_path / "js/lib").mkdir(parents=True)
    (tmp_path / "js/page.js").write_text('import { b } from "./lib/b.js";\nconsole.log(b);\n')
    (tmp_path / "js/lib/b.js").write_text('import { c } from "./c.js";\nexport const b = c + 1;\n')
    (tmp_path / "js/lib/c.js").write_text("export const c = 1;\n")
    monkeypatch.setattr(static, "STATIC", tmp_path)
    static_url.cache_clear()
    app = Starlette(routes=[Mount("/static", VersionedStaticFiles(directory=tmp_path))])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        yield client
    static_url.cache_clear()


def change_helper(folder: Path) -> None:
    """Change what the other two import, as an upgrade does, which starts a new process."""
    (folder / "js/lib/c.js").write_text("export const c = 2;\n")
    static_url.cache_clear()


@pytest.mark.parametrize("path", MODULES)
async def test_every_import_has_a_hash(client: httpx.AsyncClient, path: str) -> None:
    source = (STATIC / path).read_text()
    statements = re.findall(r"^(?:import|export [^=]*\bfrom)\b", source, re.MULTILINE)
    text = (await client.get(static_url(path))).text
    assert len(
        re.findall(r'(?:from|import) "\./[^"]+\.[0-9a-f]{12}\.js"|from "\.\./[^"]+\.[0-9a-f]{12}\.js"', text)
    ) == len(statements)
    assert "import(" not in source
    for imported in imports(path):
        assert (await client.get(static_url(imported))).headers["cache-control"].endswith("immutable")


async def test_a_changed_helper_changes_the_address_of_a_module(small: httpx.AsyncClient, tmp_path: Path) -> None:
    before = static_url("js/page.js")
    assert static_url("js/lib/b.js").rpartition("/")[2] in (await small.get(before)).text
    change_helper(tmp_path)
    after = static_url("js/page.js")
    assert after != before
    page = await small.get(after)
    assert page.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert static_url("js/lib/b.js").rpartition("/")[2] in page.text
    helper = await small.get(static_url("js/lib/b.js"))
    assert static_url("js/lib/c.js").rpartition("/")[2] in helper.text


@pytest.mark.parametrize("address", ["/static/js/page.js", "/static/js/page.0123456789ab.js"])
async def test_a_module_under_another_address_is_revalidated(
    small: httpx.AsyncClient, tmp_path: Path, address: str
) -> None:
    before = await small.get(address)
    assert before.headers["cache-control"] == "public, no-cache"
    known = {"If-None-Match": before.headers["etag"]}
    assert (await small.get(address, headers=known)).status_code == 304
    change_helper(tmp_path)
    after = await small.get(address, headers=known)
    assert after.status_code == 200
    assert static_url("js/lib/b.js").rpartition("/")[2] in after.text


def test_imports_are_those_of_a_module_and_of_what_it_imports(small: httpx.AsyncClient) -> None:
    assert imports("js/page.js") == ["js/lib/c.js", "js/lib/b.js"]
    assert imports("js/lib/c.js") == []


def test_a_classic_script_is_a_module_after_all_that_it_imports(small: httpx.AsyncClient) -> None:
    script = classic_script("js/page.js")
    assert not re.search(r"^(import|export)\b", script, re.MULTILINE)
    lines = ["(() => {", '"use strict";', "const c = 1;", "const b = c + 1;", "console.log(b);", "})();"]
    assert [line for line in script.splitlines() if line] == lines
