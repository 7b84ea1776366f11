import csv
import io
import json
from typing import Any

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from tests.factories import Synthetic, add_label, make_sae
from tests.web.api.problems import problem

LISTS = "/api/v1/lists"


@pytest.fixture
def items(made: Synthetic) -> list[dict[str, Any]]:
    return [{"sae": made.sae.slug, "feature": feature, "note": f"note {feature}"} for feature in (5, 3, 8)]


async def test_a_list_is_created_read_replaced_and_deleted(
    client: httpx.AsyncClient, items: list[dict[str, Any]]
) -> None:
    made = await client.post(LISTS, json={"name": "Rivers", "description": "and lakes", "items": items})
    assert made.status_code == 201
    kept = made.json()
    assert made.headers["location"] == f"{LISTS}/{kept['id']}"
    assert made.headers["etag"] == '"1"'
    assert (kept["name"], kept["description"], kept["author"], kept["version"]) == ("Rivers", "and lakes", "ada", 1)
    assert kept["items"] == items
    assert (kept["features"], kept["saes"]) == (3, [items[0]["sae"]])

    read = await client.get(made.headers["location"])
    assert read.json() == kept
    changed = {"name": "Lakes", "items": [items[2], items[0] | {"note": ""}]}
    written = await client.put(read.url, json=changed, headers={"If-Match": read.headers["etag"]})
    assert written.headers["etag"] == '"2"'
    assert (written.json()["version"], written.json()["description"]) == (2, "")
    assert written.json()["items"] == changed["items"]
    assert (await client.get(read.url)).json() == written.json()

    assert (await client.delete(read.url, headers={"If-Match": "2"})).status_code == 204
    problem(await client.get(read.url), 404)
    problem(await client.delete(read.url), 404)
    assert (await client.get(LISTS)).json() == {"lists": [], "next_cursor": None}


async def test_a_stale_version_changes_nothing(client: httpx.AsyncClient, items: list[dict[str, Any]]) -> None:
    url = (await client.post(LISTS, json={"name": "Rivers", "items": items})).headers["location"]
    await client.put(url, json={"name": "Lakes", "items": items}, headers={"If-Match": "1"})
    for version in ("1", '"3"', "999"):
        for answered in (
            await client.put(url, json={"name": "Ponds"}, headers={"If-Match": version}),
            await client.delete(url, headers={"If-Match": version}),
        ):
            conflict = problem(answered, 409)
            assert (conflict["current"]["name"], conflict["current"]["version"]) == ("Lakes", 2)
    assert (await client.get(url)).json()["items"] == items


@pytest.mark.parametrize("version", [None, "*", "one", '"1', "", "-1"])
async def test_replacing_a_list_needs_its_version(client: httpx.AsyncClient, version: str | None) -> None:
    url = (await client.post(LISTS, json={"name": "Rivers"})).headers["location"]
    response = await client.put(url, json={"name": "Lakes"}, headers={} if version is None else {"If-Match": version})
    assert "if-match" in problem(response, 422)["detail"].lower()


async def test_lists_come_in_pages(client: httpx.AsyncClient) -> None:
    for number in range(5):
        await client.post(LISTS, json={"name": f"list {number}", "author": "grace"})
    first = (await client.get(LISTS, params={"limit": 3})).json()
    second = (await client.get(LISTS, params={"limit": 3, "cursor": first["next_cursor"]})).json()
    assert [each["name"] for page in (first, second) for each in page["lists"]] == [
        f"list {number}" for number in (4, 3, 2, 1, 0)
    ]
    assert second["next_cursor"] is None
    assert {each["author"] for each in first["lists"]} == {"grace"}
    for wrong in ({"limit": 0}, {"limit": 201}, {"cursor": 0}, {"cursor": "x"}, {"cursor": 2**31}):
        problem(await client.get(LISTS, params=wrong), 422)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": ""},
        {"name": "x" * 81},
        {"name": "nul\0"},
        {"name": "\ud800"},
        {"name": "x", "description": "x" * 2001},
        {"name": "x", "author": ""},
        {"name": "x", "author": "\0"},
        {"name": "x", "items": "none"},
        {"name": "x", "items": [{"sae": "none", "feature": 1}]},
        {"name": "x", "items": [{"sae": "\ud800", "feature": 1}]},
        {"name": "x", "items": [{"sae": "tiny-l1-batchtopk-24", "feature": 24}]},
        {"name": "x", "items": [{"sae": "tiny-l1-batchtopk-24", "feature": 10**30}]},
        {"name": "x", "items": [{"sae": "tiny-l1-batchtopk-24", "feature": 1}] * 2},
        {"name": "x", "items": [{"sae": "tiny-l1-batchtopk-24", "feature": 1, "note": "x" * 501}]},
        {"name": "x", "items": [{"sae": "tiny-l1-batchtopk-24", "feature": 1, "position": 4}]},
        {"name": "x", "items": [{"sae": "", "feature": 1}] * 5_001},
        {"name": "x", "version": 3},
    ],
)
async def test_a_wrong_list_is_explained(client: httpx.AsyncClient, made: Synthetic, body: dict[str, object]) -> None:
    content = json.dumps(body)  # which escapes a lone surrogate, where httpx would refuse to send it
    problem(await client.post(LISTS, content=content, headers={"Content-Type": "application/json"}), 422)
    assert (await client.get(LISTS)).json()["lists"] == []


@pytest.mark.parametrize("address", ["nothing", "x" * 3_000, "%00", "%ff", "%ed%a0%80"])
async def test_an_unknown_list_is_not_found(client: httpx.AsyncClient, address: str) -> None:
    assert "/lists" in problem(await client.get(f"{LISTS}/{address}"), 404)["detail"]
    problem(await client.get(f"{LISTS}/{address}/export"), 404)
    problem(await client.put(f"{LISTS}/{address}", json={"name": "x"}, headers={"If-Match": "1"}), 404)


@pytest.mark.parametrize("format", ["csv", "json", "jsonl"])
async def test_a_list_is_downloaded(
    client: httpx.AsyncClient,
    made: Synthetic,
    engine: AsyncEngine,
    session: AsyncSession,
    items: list[dict[str, Any]],
    format: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("app.web.api.lists._BATCH", 2)
    bare = await make_sae(engine, slug="bare", publish=False)
    await add_label(session, made.sae, 3, "law")
    await session.commit()
    items = [*items, {"sae": bare.sae.slug, "feature": 1, "note": "=later"}]
    url = (await client.post(LISTS, json={"name": "Rivers", "items": items})).headers["location"]
    file = await client.get(f"{url}/export", params={"format": format})
    assert file.headers["content-disposition"].endswith(f'.{format}"')
    if format == "csv":
        rows = list(csv.DictReader(io.StringIO(file.text)))
    else:
        rows = json.loads(file.text) if format == "json" else [json.loads(line) for line in file.text.splitlines()]
    assert [(row["sae"], int(row["feature"])) for row in rows] == [(item["sae"], item["feature"]) for item in items]
    assert [row["note"].removeprefix("'") for row in rows] == [item["note"] for item in items]
    truth = made.features.rows()
    assert [float(row["density"]) for row in rows[:3]] == [truth[item["feature"]].density for item in items[:3]]
    assert rows[1]["label"] == "law"
    assert rows[3]["density"] in ("", None)


async def test_an_empty_list_is_downloaded(client: httpx.AsyncClient) -> None:
    url = (await client.post(LISTS, json={"name": "Rivers"})).headers["location"]
    assert (await client.get(f"{url}/export", params={"format": "json"})).json() == []
    assert (await client.get(f"{url}/export")).text == ""
    problem(await client.get(f"{url}/export", params={"format": "xlsx"}), 422)


async def test_a_request_with_a_key_that_is_sent_again_makes_one_list(client: httpx.AsyncClient) -> None:
    answers = [
        await client.post("/api/v1/lists", json={"name": "Rivers"}, headers={"Idempotency-Key": "8e03978e"})
        for _ in range(2)
    ]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json() == answers[1].json()
    assert len((await client.get("/api/v1/lists")).json()["lists"]) == 1
