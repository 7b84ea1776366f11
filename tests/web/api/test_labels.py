import json

import httpx
import pytest

from tests.factories import Synthetic
from tests.web.api.problems import problem


@pytest.fixture
def mine(made: Synthetic) -> str:
    return f"/api/v1/saes/{made.sae.slug}/features/5/labels/mine"


async def test_a_label_is_written_read_and_changed_with_its_history(client: httpx.AsyncClient, mine: str) -> None:
    first = await client.put(mine, json={"explanation": "physics", "categories": ["topic"], "confidence": 4})
    assert first.status_code == 200
    assert first.headers["etag"] == '"1"'
    label = first.json()
    assert (label["author"], label["set"], label["status"], label["version"]) == ("ada", "default", "submitted", 1)

    second = await client.put(
        mine, json={"explanation": "words of physics"}, headers={"If-Match": first.headers["etag"]}
    )
    assert second.json()["version"] == 2

    [listed] = (await client.get(mine.removesuffix("/mine"))).json()["labels"]
    assert listed == second.json() | {"scores": []}
    history = (await client.get(f"/api/v1/labels/{label['id']}/history")).json()
    assert history["label"] == second.json()
    assert [(r["version"], r["explanation"]) for r in history["history"]] == [(2, "words of physics"), (1, "physics")]


async def test_a_stale_version_loses_neither_text(client: httpx.AsyncClient, mine: str) -> None:
    await client.put(mine, json={"explanation": "one"})
    await client.put(mine, json={"explanation": "two"}, headers={"If-Match": "1"})
    for headers in ({"If-Match": "1"}, {}, {"If-Match": "99999"}):
        conflict = problem(await client.put(mine, json={"explanation": "three"}, headers=headers), 409)
        assert conflict["current"]["explanation"] == "two"
        assert conflict["current"]["version"] == 2
        assert conflict["submitted"]["explanation"] == "three"
    [label] = (await client.get(mine.removesuffix("/mine"))).json()["labels"]
    assert label["explanation"] == "two"


async def test_changing_a_missing_label_is_a_conflict(client: httpx.AsyncClient, mine: str) -> None:
    conflict = problem(await client.put(mine, json={"explanation": "x"}, headers={"If-Match": '"1"'}), 409)
    assert conflict["current"] is None


async def test_each_author_and_set_has_its_own_label(client: httpx.AsyncClient, mine: str) -> None:
    for body in ({}, {"author": "grace"}, {"set": "second pass"}):
        assert (await client.put(mine, json={"explanation": "x"} | body)).status_code == 200
    labels = (await client.get(mine.removesuffix("/mine"))).json()["labels"]
    assert {(label["author"], label["set"]) for label in labels} == {
        ("ada", "default"),
        ("grace", "default"),
        ("ada", "second pass"),
    }


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"explanation": ""},
        {"explanation": "x" * 100_000},
        {"explanation": "a\0b"},
        {"explanation": "\ud800"},
        {"explanation": "x", "confidence": 6},
        {"explanation": "x", "confidence": 10**30},
        {"explanation": "x", "status": "final"},
        {"explanation": "x", "author": ""},
        {"explanation": "x", "author": "\0"},
        {"explanation": "x", "set": "s" * 1_000},
        {"explanation": "x", "categories": [str(i) for i in range(1_000)]},
        {"explanation": "x", "categories": "none"},
        {"explanation": "x", "\ud800": 1},
        {"explanation": "x", "unknown " * 1_000: 1},
    ],
)
async def test_a_wrong_label_is_explained(client: httpx.AsyncClient, mine: str, body: dict[str, object]) -> None:
    content = json.dumps(body)  # which escapes a lone surrogate, where httpx would refuse to send it
    problem(await client.put(mine, content=content, headers={"Content-Type": "application/json"}), 422)
    assert (await client.get(mine.removesuffix("/mine"))).json() == {"labels": []}


@pytest.mark.parametrize("version", ["*", "one", "1, 2", '"1', "", "-1"])
async def test_an_invalid_version_is_refused(client: httpx.AsyncClient, mine: str, version: str) -> None:
    response = await client.put(mine, json={"explanation": "x"}, headers={"If-Match": version})
    assert "If-Match" in problem(response, 422)["detail"]


async def test_an_unknown_label_has_no_history(client: httpx.AsyncClient) -> None:
    assert "Label 7 does not exist" in problem(await client.get("/api/v1/labels/7/history"), 404)["detail"]
    problem(await client.get("/api/v1/labels/0/history"), 422)
    problem(await client.get(f"/api/v1/labels/{10**30}/history"), 422)


async def test_only_its_author_reads_a_draft(client: httpx.AsyncClient, mine: str) -> None:
    draft = (await client.put(mine, json={"explanation": "perhaps lakes", "status": "draft", "author": "grace"})).json()
    labels, history = mine.removesuffix("/mine"), f"/api/v1/labels/{draft['id']}/history"
    feature = labels.removesuffix("/labels")
    problem(await client.get(history), 404)
    assert (await client.get(history, params={"author": "grace"})).json()["label"] == draft
    for path in (labels, feature):
        assert (await client.get(path)).json()["labels"] == []
        [own] = (await client.get(path, params={"author": "grace"})).json()["labels"]
        assert own.items() >= draft.items()
    for author in ("nul\0", "x" * 81):
        problem(await client.get(labels, params={"author": author}), 422)


async def test_a_request_that_is_sent_again_is_answered_as_the_first_was(client: httpx.AsyncClient, mine: str) -> None:
    first = await client.put(mine, json={"explanation": "physics\r\nof stars"})
    again = await client.put(mine, json={"explanation": "physics\r\nof stars"})
    assert (again.status_code, again.json(), again.headers["etag"]) == (200, first.json(), first.headers["etag"])
    assert first.json()["explanation"] == "physics\nof stars"


@pytest.mark.own_database
async def test_labels_are_imported_with_their_history_once(
    client: httpx.AsyncClient, made: Synthetic, mine: str
) -> None:
    await client.put(mine, json={"explanation": "rivers"})
    await client.put(mine, json={"explanation": "lakes"}, headers={"If-Match": "1"})
    base = f"/api/v1/saes/{made.sae.slug}/labels"
    history = await client.get(f"{base}/history")
    assert history.headers["content-type"] == "application/jsonl"
    again = await client.post(f"{base}/import", content=history.content)
    assert (again.status_code, again.json()["unchanged"], again.json()["labels"]) == (200, 1, 0)
    table = (await client.get(f"{base}/export?format=csv")).text.replace(",5,", ",6,")
    sent = await client.post(f"{base}/import?format=csv", content=table)
    assert sent.json()["labels"] == 1, sent.text
    assert "lakes" in (await client.get(mine.replace("/5/", "/6/").removesuffix("/mine"))).text
    assert (
        "Line 2"
        in problem(await client.post(f"{base}/import?format=csv", content="feature,author,explanation\nx,a,b"), 422)[
            "detail"
        ]
    )
    problem(await client.post(f"{base}/import", content=b"\xff\xfe"), 422)
    problem(await client.post(f"{base}/import", content=b""), 422)
    stranger = history.text.replace(made.sae.weights_sha256, "0" * 64)
    assert "other_weights" in problem(await client.post(f"{base}/import", content=stranger), 409)["detail"]
    taken = await client.post(f"{base}/import?other_weights=true", content=stranger)
    assert taken.status_code == 200
