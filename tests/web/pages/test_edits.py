"""Pages of saved edits, whose files a real inference service writes."""

import json
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.services.edits import MAX_CHECKS
from app.web import rendering
from tests.app.inference.dictionaries import SLUG, Dictionary, link_files
from tests.edits import MEASURED, TEXT, save
from tests.web.html import parse

CHANGE = {"op": "clamp", "value": 30.0, "feature": 7, "positions": "all"}
FORM = {
    "title": "Best of times",
    "sae": SLUG,
    "interventions": json.dumps([CHANGE]),
    "prompt": TEXT,
    "before": ", it was the worst",
    "after": ", it was <b>spring</b>",
}


async def test_a_form_saves_an_edit_that_its_page_shows(probing: httpx.AsyncClient) -> None:
    empty = parse((await probing.get("/edits")).text)
    assert "No edit yet" in empty.text
    saved = await probing.post("/edits", data=FORM)
    assert (saved.status_code, saved.headers["location"]) == (303, "/edits/best-of-times")
    response = await probing.get("/edits/best-of-times")
    page = parse(response.text)
    assert "<b>spring" not in response.text
    assert "Sets feature 7 to 30.0 on every token but BOS." in " ".join(page.one("p", cls="edit-sentence").text.split())
    assert ", it was <b>spring</b>" in page.text
    assert "Not measured yet" in page.text
    assert "seesae export-model best-of-times" in page.text
    steer = next(link["href"] for link in page.all("a") if link.text == "Open in Steer")
    form = parse((await probing.get(steer)).text)
    assert form.one("input", id="feature")["value"] == "7"
    assert form.one("input", id="value")["value"] == "30"
    assert TEXT in form.one("textarea", id="text").text
    listed = parse((await probing.get("/edits", params={"sae": SLUG})).text)
    assert listed.one("a", cls="list-row")["href"] == "/edits/best-of-times"
    assert (await probing.get("/edits/none")).status_code == 404


async def test_the_form_beside_a_result_sends_what_it_is_given(
    probing: httpx.AsyncClient, dictionary: Dictionary
) -> None:
    texts = {"prompt": f"\n{TEXT} & <b>", "before": "</textarea>", "after": "'\""}
    context = {"sae": dictionary.row, "edit_changes": [{**CHANGE, "sae": None}]}
    form = parse(rendering.text("edits/_save.html", context | {f"edit_{name}": text for name, text in texts.items()}))
    sent = {field["name"]: field["value"] for field in form.all("input") if field["name"] != "title"}
    sent |= {area["name"]: area.text.removeprefix("\n") for area in form.all("textarea")}
    assert (form.one("form")["action"], form.one("form")["method"]) == ("/edits", "post")
    assert (await probing.post("/edits", data={**sent, "title": "Best of times"})).status_code == 303
    made = (await probing.get("/api/v1/edits/best-of-times")).json()
    assert made["prompts"] == [{"text": texts["prompt"], "before": texts["before"], "after": texts["after"]}]
    assert made["interventions"][0]["feature"] == 7


async def test_the_pages_python_runs_with_the_downloaded_file(
    probing: httpx.AsyncClient,
    dictionary: Dictionary,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    await save(probing)
    page = parse((await probing.get("/edits/best-of-times")).text)
    assert dictionary.model.source not in page.text, "paths of the site's machine are not for all to see"
    file = (await probing.get("/api/v1/edits/best-of-times/download")).content
    (tmp_path / "best-of-times.json").write_bytes(file)
    monkeypatch.chdir(link_files(dictionary, tmp_path))
    exec(page.one("pre", cls="code").text, {})
    assert TEXT in capsys.readouterr().out


async def test_facts_are_written_line_by_line(probing: httpx.AsyncClient) -> None:
    await save(probing)
    sent = {
        "title": "Renamed",
        "notes": "Why",
        "prompts": "It was the | best | worst\r\n\r\nIt was | the",
        "paraphrases": "",
        "neighbours": "The king | sat",
        "control": "Once upon\nA time",
    }
    assert (await probing.post("/edits/best-of-times", data=sent)).status_code == 303
    edit = (await probing.get("/api/v1/edits/best-of-times")).json()
    assert edit["checks"] == {
        "prompts": [
            {"prompt": "It was the", "expected": "best", "forbidden": "worst"},
            {"prompt": "It was", "expected": "the", "forbidden": None},
        ],
        "paraphrases": [],
        "neighbours": [{"prompt": "The king", "expected": "sat", "forbidden": None}],
        "control": ["Once upon", "A time"],
    }
    page = parse((await probing.get("/edits/best-of-times")).text)
    assert page.one("textarea", id="prompts").text.strip() == "It was the | best | worst\nIt was | the"
    for lines, says in [("no bar", "prompt | expected"), ("a | b\n" * (MAX_CHECKS + 1), "At most 100 lines")]:
        refused = await probing.post("/edits/best-of-times", data={**sent, "prompts": lines})
        assert refused.status_code == 422
        form = parse(refused.text)
        assert says in form.one("p", cls="error").text
        assert form.one("textarea", id="notes").text.strip() == "Why", "nothing that was written is lost"


async def test_what_was_measured_is_shown_beside_the_controls(probing: httpx.AsyncClient, engine: AsyncEngine) -> None:
    measured = MEASURED | {"checks": (await save(probing))["checks"]}
    async with engine.begin() as connection:
        await connection.execute(
            text("UPDATE saved_edit SET measured = CAST(:it AS jsonb), measured_at = now()"),
            {"it": json.dumps(measured)},
        )
    response = await probing.get("/edits/best-of-times")
    page = parse(response.text)
    assert "have changed since" not in page.text
    assert "0.25 nats per token (KL), 5.0 × as much as the same change along random features (2.0 to 8.0)" in page.text
    assert "<i>books" not in response.text
    moved = page.one("div", cls="edit-moved")
    assert [row.all("td")[0].text for row in moved.all("tr") if row.all("td")] == ["+2.0 %", "−3.0 %"]
    row = page.all("table", cls="edit-figures")[0].one("tbody").all("tr")[0]
    assert [" ".join(cell.text.split()) for cell in row.all("td")] == [
        "KL, nats per token",
        "0.25 (0.12 to 0.50)",
        "0.050",
    ]
    assert "neighbouring facts" not in page.one("section", **{"aria-labelledby": "effects"}).text
    each = page.one("details", cls="edit-each").one("tbody").text
    assert "It was the" in each
    assert "Measure again" in page.text
    sent = {"title": "Best of times", "prompts": "It was the | best"}
    assert (await probing.post("/edits/best-of-times", data=sent)).status_code == 303
    assert "have changed since this was measured" in " ".join(
        parse((await probing.get("/edits/best-of-times")).text).text.split()
    )


async def test_an_edit_is_deleted_after_a_question(probing: httpx.AsyncClient) -> None:
    await save(probing)
    assert "Delete the edit" in (await probing.get("/edits/best-of-times/delete")).text
    assert (await probing.post("/edits/best-of-times/delete")).status_code == 303
    assert (await probing.get("/edits/best-of-times")).status_code == 404


async def test_an_edit_outlives_its_sae(probing: httpx.AsyncClient) -> None:
    await save(probing)
    await probing.post(f"/saes/{SLUG}/probe/saved", data={"text": "words", "title": "Kept"})
    asked = parse((await probing.get(f"/saes/{SLUG}/delete")).text)
    assert "1 edit of its features stay" in asked.text
    assert "1 saved probe, with the links to them" in asked.text
    deleted = await probing.delete(f"/api/v1/saes/{SLUG}")
    assert deleted.status_code == 200, deleted.text
    page = parse((await probing.get("/edits/best-of-times")).text)
    assert "was deleted. The edit still works" in page.text
    assert "Open in Steer" not in page.text
    assert "Measure it" not in page.text
    assert (await probing.get("/api/v1/edits/best-of-times/download")).json()["sites"]
    refused = await probing.post("/api/v1/edits/best-of-times/measure")
    assert refused.status_code == 409
    assert "was deleted, so there are no features to compare" in refused.json()["detail"]
    gone = (await probing.get("/models/tiny/delete")).text
    assert "1 saved edit of it" in gone


@pytest.mark.read_only
@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"interventions": "no"}, 422),
        ({"interventions": "[]"}, 422),
        ({"interventions": json.dumps([CHANGE] * 65)}, 422),
        ({"title": ""}, 422),
        ({"sae": ""}, 404),
        ({"prompt": "x" * 20_001}, 422),
    ],
)
async def test_what_cannot_be_saved_is_explained(
    probing: httpx.AsyncClient, fields: dict[str, str], status: int
) -> None:
    response = await probing.post("/edits", data={**FORM, **fields})
    assert response.status_code == status, response.text
    form = parse(response.text).one("form", cls="edit-form")
    kept = {area["name"]: area.text.removeprefix("\n") for area in form.all("textarea")}
    kept["title"] = form.one("input", id="edit-title")["value"]
    assert kept == {**FORM, **fields}, "nothing that was sent is lost"
