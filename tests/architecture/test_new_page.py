"""docs/architecture.md says what a page needs: a module with a router, a template and a stylesheet. Here they are."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from app.paths import STATIC, TEMPLATES
from app.queries.saes import list_saes
from app.web import rendering, static
from app.web.dependencies import Session
from app.web.rendering import render
from tests.factories import Synthetic
from tests.web.html import parse
from tests.web.site import app_of

# --- app/web/pages/widths.py

router = APIRouter()


@router.get("/widths")
async def widths(request: Request, session: Session) -> HTMLResponse:
    """The widths of all SAEs."""
    return render(request, "widths/page.html", {"saes": await list_saes(session)})


# --- templates/widths/page.html

TEMPLATE = """
{% extends "base.html" %}
{% block title %}Widths{% endblock %}
{% block styles %}{{ stylesheet("widths") }}{% endblock %}
{% block main %}
<h1>Widths</h1>
<ul class="widths">{% for sae in saes %}<li>{{ sae.slug }}: {{ sae.d_sae|count }}</li>{% endfor %}</ul>
{% endblock %}
"""

# --- static/css/widths.css

SHEET = ".widths { list-style: none; }\n"

# --- and a line in app/web/pages/__init__.py, which the test stands in for by adding the router itself


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Templates and static files with the new ones among them."""
    for folder, module, name in ((TEMPLATES, rendering, "TEMPLATES"), (STATIC, static, "STATIC")):
        copy = shutil.copytree(folder, tmp_path / folder.name, ignore=shutil.ignore_patterns("vendor"))
        monkeypatch.setattr(module, name, copy)
        (copy / "vendor").symlink_to(folder / "vendor") if (folder / "vendor").exists() else None
    page, sheet = tmp_path / "templates" / "widths" / "page.html", tmp_path / "static" / "css" / "widths.css"
    page.parent.mkdir()
    page.write_text(TEMPLATE)
    sheet.write_text(SHEET)
    _forget()
    yield
    _forget()


def _forget() -> None:
    rendering.environment.cache_clear()
    static.static_url.cache_clear()


async def test_a_new_page_is_served_with_its_stylesheet(client: httpx.AsyncClient, made: Synthetic) -> None:
    app_of(client).include_router(router)
    response = await client.get("/widths")
    assert response.status_code == 200, response.text
    page = parse(response.text)
    assert page.one("li").text == f"{made.sae.slug}: {made.sae.d_sae:,}"
    assert [link["href"] for link in page.all("link", rel="stylesheet") if "/css/widths." in link["href"]]
    assert "W/" in response.headers["ETag"]
    assert response.headers["Content-Security-Policy"].startswith("default-src 'self'")
    again = await client.get("/widths", headers={"If-None-Match": response.headers["ETag"]})
    assert again.status_code == 304
