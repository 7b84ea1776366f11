"""Text sets through the API."""

from typing import Any

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from app.queries.runs import cancel_run, create_run, set_job
from app.services.text_set_files import read_file
from tests.text_sets import make_pairs, make_text_set
from tests.web.api.problems import problem

PATH = "/api/v1/textsets"


async def test_a_set_is_made_listed_read_paged_and_deleted(client: httpx.AsyncClient) -> None:
    texts = [{"text": f"text {number}", "label": number % 2 == 0, "why": [number]} for number in range(5)]
    chat = {"chat": [{"role": "user", "content": "hi"}], "split": None}
    made = await client.post(PATH, json={"name": "five", "licence": "CC0", "texts": [*texts, chat]})
    assert made.status_code == 201, made.text
    assert made.headers["location"] == f"{PATH}/five"
    found = (await client.get(f"{PATH}/five")).json()
    assert found == made.json()
    assert (found["texts"], found["labels"], found["chats"]) == (6, {"true": 3, "false": 2}, 1)
    assert sum(found["splits"].values()) == 6
    listed = (await client.get(PATH)).json()
    assert [each["name"] for each in listed["textsets"]] == ["five"]
    assert "crows-pairs" in {each["name"] for each in listed["built_in"]}
    page = (await client.get(f"{PATH}/five/texts", params={"label": "true", "limit": 2})).json()
    assert [(each["number"], each["fields"]) for each in page["texts"]] == [(0, {"why": [0]}), (2, {"why": [2]})]
    rest = (await client.get(f"{PATH}/five/texts", params={"label": "true", "cursor": page["next_cursor"]})).json()
    assert ([each["number"] for each in rest["texts"]], rest["next_cursor"]) == ([4], None)
    again = await client.post(PATH, json={"name": "five", "texts": texts})
    assert problem(again, 409)
    assert (await client.delete(f"{PATH}/five")).status_code == 204
    assert problem(await client.get(f"{PATH}/five"), 404)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"name": "x y", "texts": [{"text": "a"}]}, "cannot be the name"),
        ({"name": "x", "texts": []}, "texts"),
        ({"name": "x", "texts": [{"label": "a"}]}, "no column “text”"),
        ({"name": "x", "texts": [{"text": "a", "split": "third"}]}, "the split is “third”"),
        ({"name": "x", "texts": [{"text": "a", "pair": 1}]}, "has one text"),
        ({"name": "x", "url": "javascript:alert(1)", "texts": [{"text": "a"}]}, "http"),
        ({"name": "x", "texts": [{"text": "a"}], "more": 1}, "more"),
    ],
)
async def test_what_cannot_be_is_refused(client: httpx.AsyncClient, body: dict[str, Any], words: str) -> None:
    refused = await client.post(PATH, json=body)
    assert refused.status_code == 422
    assert words in refused.text
    assert (await client.get(PATH)).json()["textsets"] == []


async def test_a_download_is_read_again_as_the_same_set(client: httpx.AsyncClient, session: AsyncSession) -> None:
    import io

    stored = await make_pairs(session)
    await session.commit()
    lines = await client.get(f"{PATH}/pairs/download")
    assert lines.headers["content-disposition"] == 'attachment; filename="pairs.jsonl"'
    read = read_file(io.BytesIO(lines.content), "pairs.jsonl")
    assert [(item.text, item.label, item.pair, item.split, item.chat) for item in read] == [
        (each["text"], each["label"], each["pair"], each["split"], each["chat"] and tuple(each["chat"]))
        for each in (await client.get(f"{PATH}/pairs/texts", params={"limit": 1000})).json()["texts"]
    ]
    table = await client.get(f"{PATH}/pairs/download", params={"format": "csv"})
    assert len(table.text.splitlines()) == stored.counts.texts + 1
    assert "chat" not in table.text.splitlines()[0]


async def test_a_set_that_a_run_uses_stays(client: httpx.AsyncClient, session: AsyncSession) -> None:
    await make_text_set(session)
    run = await create_run(
        session, kind="compare-texts", title="Compare", params={"a": "moods:happy"}, stages=[], created_by="ada"
    )
    await set_job(session, run.id, 1)
    await session.commit()
    assert f"run {run.id}" in problem(await client.delete(f"{PATH}/moods"), 409)["detail"]
    assert (await client.post("/textsets/moods/delete")).status_code == 409
    await cancel_run(session, run.id)
    await session.commit()
    assert (await client.delete(f"{PATH}/moods")).status_code == 204
