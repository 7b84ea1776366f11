import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.settings import Settings
from tests.web.site import site

STREAMED = {
    ("post", "/api/v1/saes/{sae}/generate"),
    ("post", "/api/v1/saes/{sae}/sweep"),
    ("post", "/v1/chat/completions"),
    ("post", "/v1/completions"),
}
DOWNLOADS = {
    ("get", "/api/v1/saes/{sae}/dictionary/export"),
    ("get", "/api/v1/saes/{sae}/features/export"),
    ("get", "/api/v1/saes/{sae}/labels/export"),
    ("get", "/api/v1/lists/{id}/export"),
    ("get", "/api/v1/text-comparisons/{id}/export"),
}
ENDPOINT = {
    ("get", "/v1/models"),
    ("get", "/v1/models/{model}"),
    ("post", "/v1/chat/completions"),
    ("post", "/v1/completions"),
}
"""In OpenAI's format, with its errors."""
CONTRACT = {
    ("get", "/api/v1/monitors"),
    ("post", "/api/v1/monitors"),
    ("get", "/api/v1/monitors/{id}"),
    ("put", "/api/v1/monitors/{id}"),
    ("delete", "/api/v1/monitors/{id}"),
    ("get", "/api/v1/monitors/{id}/download"),
    ("post", "/api/v1/monitors/{id}/check"),
    ("post", "/api/v1/monitors/{id}/scan"),
    ("get", "/api/v1/monitors/{id}/alerts"),
    ("post", "/api/v1/monitors/{id}/alerts/{alert}/acknowledge"),
    ("get", "/api/v1/saes"),
    ("get", "/api/v1/saes/{sae}"),
    ("delete", "/api/v1/saes/{sae}"),
    ("delete", "/api/v1/saes/{sae}/index"),
    ("get", "/api/v1/models"),
    ("delete", "/api/v1/models/{name}"),
    ("get", "/api/v1/corpora"),
    ("delete", "/api/v1/corpora/{name}"),
    ("get", "/api/v1/saes/{sae}/map"),
    ("get", "/api/v1/saes/{sae}/features"),
    *DOWNLOADS,
    ("post", "/api/v1/saes/{sae}/features/by-example"),
    ("get", "/api/v1/saes/{sae}/features/{index}"),
    ("get", "/api/v1/saes/{sae}/features/{index}/examples"),
    ("post", "/api/v1/saes/{sae}/compare-texts"),
    ("get", "/api/v1/saes/{sae}/text-comparisons"),
    ("get", "/api/v1/text-comparisons/{id}"),
    ("delete", "/api/v1/text-comparisons/{id}"),
    ("get", "/api/v1/saes/{sae}/features/{index}/textsets/{name}"),
    ("post", "/api/v1/saes/{sae}/probe"),
    ("post", "/api/v1/saes/{sae}/attribute"),
    *STREAMED,
    ("get", "/api/v1/saes/{sae}/features/{index}/labels"),
    ("put", "/api/v1/saes/{sae}/features/{index}/labels/mine"),
    ("put", "/api/v1/saes/{sae}/features/{index}/labels/mine/draft"),
    ("get", "/api/v1/labels/{id}/history"),
    ("get", "/api/v1/labelsets"),
    ("post", "/api/v1/labelsets"),
    ("get", "/api/v1/labelsets/{id}"),
    ("put", "/api/v1/labelsets/{id}"),
    ("post", "/api/v1/labelsets/{id}/next"),
    ("post", "/api/v1/labelsets/{id}/skip"),
    ("post", "/api/v1/labelsets/{id}/undo"),
    ("get", "/api/v1/labelsets/{id}/features/{feature}/draft"),
    ("put", "/api/v1/labelsets/{id}/features/{feature}/draft"),
    ("post", "/api/v1/labels/{id}/undo"),
    ("get", "/api/v1/saes/{sae}/labels/history"),
    ("post", "/api/v1/saes/{sae}/labels/import"),
    ("get", "/api/v1/saes/{sae}/features/{index}/comments"),
    ("post", "/api/v1/saes/{sae}/features/{index}/comments"),
    ("delete", "/api/v1/comments/{id}"),
    ("get", "/api/v1/activity"),
    ("get", "/api/v1/webhooks"),
    ("post", "/api/v1/webhooks"),
    ("delete", "/api/v1/webhooks/{id}"),
    ("get", "/api/v1/webhooks/{id}/deliveries"),
    ("get", "/api/v1/saes/{sae}/dictionary"),
    ("get", "/api/v1/labelsets/{id}/tests"),
    ("post", "/api/v1/labelsets/{id}/tests"),
    ("get", "/api/v1/tests/{id}"),
    ("post", "/api/v1/tests/{id}/answers"),
    ("put", "/api/v1/labels/{id}/vote"),
    ("get", "/api/v1/labelsets/{id}/agreement"),
    ("get", "/api/v1/labelsets/{id}/progress"),
    ("get", "/api/v1/labelsets/{id}/collisions"),
    ("get", "/api/v1/labelsets/{id}/disagreements"),
    ("get", "/api/v1/labelsets/{id}/decisions"),
    ("post", "/api/v1/labelsets/{id}/decisions"),
    ("post", "/api/v1/saes/{sae}/suggestions"),
    ("get", "/api/v1/saes/{sae}/features/{index}/suggestions"),
    ("get", "/api/v1/lists"),
    ("post", "/api/v1/lists"),
    ("get", "/api/v1/lists/{id}"),
    ("put", "/api/v1/lists/{id}"),
    ("delete", "/api/v1/lists/{id}"),
    ("get", "/api/v1/audits"),
    ("post", "/api/v1/audits"),
    ("get", "/api/v1/audits/{id}"),
    ("delete", "/api/v1/audits/{id}"),
    ("get", "/api/v1/audits/{id}/raw"),
    ("get", "/api/v1/audits/{id}/report.html"),
    ("get", "/api/v1/textsets"),
    ("post", "/api/v1/textsets"),
    ("get", "/api/v1/textsets/{name}"),
    ("delete", "/api/v1/textsets/{name}"),
    ("get", "/api/v1/textsets/{name}/texts"),
    ("get", "/api/v1/textsets/{name}/download"),
    ("get", "/api/v1/edits"),
    ("post", "/api/v1/edits"),
    ("get", "/api/v1/edits/{name}"),
    ("put", "/api/v1/edits/{name}"),
    ("delete", "/api/v1/edits/{name}"),
    ("get", "/api/v1/edits/{name}/download"),
    *ENDPOINT,
    ("post", "/api/v1/edits/{name}/measure"),
    ("get", "/api/v1/saes/{sae}/features/{index}/counterparts"),
    ("get", "/api/v1/compare"),
    ("get", "/api/v1/leaderboard"),
    ("get", "/api/v1/runs"),
    ("get", "/api/v1/runs/kinds"),
    ("get", "/api/v1/runs/{id}"),
    ("post", "/api/v1/runs"),
    ("post", "/api/v1/runs/{id}/cancel"),
    ("post", "/api/v1/runs/{id}/retry"),
}


FILES = {
    "/api/v1/saes/{sae}/labels/history": {"application/jsonl"},
    "/api/v1/audits/{id}/raw": {"application/jsonl", "text/csv"},
    "/api/v1/textsets/{name}/download": {"application/jsonl", "text/csv"},
    "/api/v1/audits/{id}/report.html": {"text/html"},
}
"""Operations that answer with a file, and of which kinds."""


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with site(Settings(database_url="postgresql://127.0.0.1:1/none", home=tmp_path)) as client:
        yield client


@pytest.fixture
async def description(client: httpx.AsyncClient) -> dict[str, Any]:
    content: dict[str, Any] = (await client.get("/api/openapi.json")).json()
    return content


async def test_every_operation_is_described(description: dict[str, Any]) -> None:
    described = {(method, path): of for path, methods in description["paths"].items() for method, of in methods.items()}
    assert described.keys() == CONTRACT
    for address, operation in described.items():
        assert operation["summary"]
        assert operation["description"]
        assert operation["tags"]
        [(status, success)] = [(code, of) for code, of in operation["responses"].items() if code.startswith("2")]
        content = success.get("content")
        if address in DOWNLOADS:
            assert content.keys() == {"text/csv", "application/json", "application/jsonl"}
        elif address[1] in FILES:
            assert content.keys() == FILES[address[1]]
        elif status == "204":
            assert content is None
        else:
            streams = {"text/event-stream"} if address in STREAMED else set()
            assert content.keys() == {"application/json", *streams}
            schema = content["application/json"]["schema"]
            assert all("$ref" in one for one in schema.get("anyOf", [schema]))
        problems = {code: of for code, of in operation["responses"].items() if code != status}
        assert ({"4XX", "503"} if address in ENDPOINT else {"422", "503"}) <= problems.keys()
        for response in problems.values():
            kind = "application/json" if address in ENDPOINT else "application/problem+json"
            assert response["content"].keys() == {kind}


async def test_all_that_the_description_refers_to_is_in_it(description: dict[str, Any]) -> None:
    schemas = description["components"]["schemas"]
    assert set(re.findall(r'"\$ref": "([^"]+)"', json.dumps(description))) <= {
        f"#/components/schemas/{name}" for name in schemas
    }
    assert schemas["Problem"]["required"] == ["type", "title", "status", "detail"]


async def test_the_page_loads_nothing_from_elsewhere(client: httpx.AsyncClient) -> None:
    page = await client.get("/api/docs")
    assert page.status_code == 200
    assert "/api/openapi.json" in page.text
    for address in re.findall(r'(?:src|href|data-spec)="([^"]+)"', page.text):
        assert address.startswith(("/", "#")), address
    for script in re.findall(r'src="([^"]+)"', page.text):
        assert (await client.get(script)).status_code == 200
