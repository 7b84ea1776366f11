"""Monitors by the API, with a real inference service."""

from pathlib import Path

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db import create_sessionmaker, transaction
from sae_core.monitoring import monitor_from_json, score_texts
from tests.app.inference.dictionaries import SLUG, Dictionary
from tests.monitors import add_alerts, add_monitor
from tests.text_sets import make_text_set

TEXT = "It was the best of times, it was the worst of times"


async def test_a_text_is_checked_as_the_science_scores_it(
    probing: httpx.AsyncClient, engine: AsyncEngine, dictionary: Dictionary
) -> None:
    async with transaction(create_sessionmaker(engine)) as session:
        await add_monitor(session, dictionary.row, own=dictionary.sae, threshold=-100.0)  # type: ignore[arg-type]
        await add_monitor(session, dictionary.row, own=dictionary.sae, name="calm", threshold=1e6, keep_text=True)  # type: ignore[arg-type]
    address = "/api/v1/monitors/kings"
    file = (await probing.get(f"{address}/download")).json()
    (own,) = score_texts(dictionary.model, [monitor_from_json(file, "kings")], [TEXT])
    answer = await probing.post(f"{address}/check", json={"texts": [TEXT, "A king"]})
    assert answer.status_code == 200, answer.text
    first, second = answer.json()["results"]
    assert first["score"] == pytest.approx(own.scores[0].score)
    assert first["alert"] and first["threshold"] == -100.0 and second["alert_id"] == first["alert_id"] + 1
    assert [one["score"] for one in first["positions"]] == pytest.approx(own.scores[0].values.tolist())
    assert "".join(one["token"] for one in first["positions"]).strip() == TEXT
    assert {one["feature"] for one in first["features"]} == {3, 7}
    assert first["probe_score"] is not None
    alone = (await probing.post(f"{address}/check", json={"text": TEXT})).json()["results"]
    assert alone[0]["score"] == pytest.approx(first["score"])

    monitor = (await probing.get(address)).json()
    assert (monitor["checked"], monitor["alerts"], monitor["unacknowledged"]) == (3, 3, 3)
    assert (monitor["threshold"], monitor["live"]["threshold"], monitor["live"]["on_the_way"]) == (-100, -99.5, 17)
    assert monitor["live"]["interval"] == [0.0006, 0.0179] and file["live"]["threshold"] == -99.5
    assert [one["live"] is None for one in monitor["candidates"]] == [False, False, True]
    assert monitor["drift"] is None, "texts that somebody checks say nothing of what is watched"
    assert (monitor["on"], monitor["sae_state"], [one["name"] for one in monitor["baselines"]]) == (
        "features",
        "there",
        ["probe-mean", "words"],
    )
    quiet = (await probing.post("/api/v1/monitors/calm/check", json={"text": TEXT})).json()["results"][0]
    assert (quiet["alert"], quiet["alert_id"]) == (False, None)
    page = (await probing.get(f"{address}/alerts", params={"limit": 2})).json()
    assert [alert["text"] for alert in page["alerts"]] == [None, None]
    rest = (await probing.get(f"{address}/alerts", params={"cursor": page["next_cursor"]})).json()
    assert len(rest["alerts"]) == 1 and rest["next_cursor"] is None
    number = rest["alerts"][0]["id"]
    seen = (await probing.post(f"{address}/alerts/{number}/acknowledge", json={"note": "fine"})).json()
    again = (await probing.post(f"{address}/alerts/{number}/acknowledge", json={"note": "no"})).json()
    assert seen["note"] == again["note"] == "fine" and seen["acknowledged_by"] is not None
    left = (await probing.get(f"{address}/alerts", params={"acknowledged": "no"})).json()["alerts"]
    assert len(left) == 2 and number not in [alert["id"] for alert in left]
    assert (await probing.post(f"{address}/alerts/999/acknowledge", json={})).status_code == 404

    told = (await probing.get("/api/v1/activity", params={"monitor": "kings"})).json()["activity"]
    assert [(act["act"], act["alerts"]) for act in told] == [
        ("alert acknowledged", None),
        ("alert raised", 1),  # the second check, within a minute of the first
        ("alert raised", 2),
        ("monitor made", None),
    ]
    assert {(act["monitor"], act["sae"], act["set"]) for act in told} == {("kings", SLUG, None)}
    assert (told[0]["subject"], told[0]["person"] is None, told[1]["person"]) == (number, False, None)
    assert (await probing.get("/api/v1/activity", params={"monitor": "none"})).status_code == 404

    refused = await probing.put(address, json={"candidate": "probe-mean"})
    assert refused.status_code == 409 and "Make another monitor" in refused.json()["detail"]
    assert (await probing.put(address, json={"state": "paused"})).json()["state"] == "paused"
    paused = await probing.post(f"{address}/check", json={"text": TEXT})
    assert paused.status_code == 409 and "is paused" in paused.json()["detail"]
    for body in ({}, {"text": "a", "texts": ["b"]}, {"text": " "}, {"texts": []}):
        assert (await probing.post("/api/v1/monitors/calm/check", json=body)).status_code == 422, body

    # It outlives its SAE; without its model it says what is wrong.
    asked = (await probing.get(f"/saes/{SLUG}/delete")).text
    assert "2 monitors made with it stay, and go on watching." in asked
    assert (await probing.delete(f"/api/v1/saes/{SLUG}")).status_code == 200
    orphan = (await probing.get("/api/v1/monitors/calm")).json()
    assert orphan["sae_state"] == "deleted"
    alive = (await probing.post("/api/v1/monitors/calm/check", json={"text": TEXT})).json()["results"][0]
    assert alive["score"] == pytest.approx(quiet["score"])
    assert "2 monitors of it stay, but cannot read texts" in (await probing.get("/models/tiny/delete")).text
    assert (await probing.delete("/api/v1/models/tiny")).status_code == 200
    gone = await probing.post("/api/v1/monitors/calm/check", json={"text": TEXT})
    assert gone.status_code == 409 and "was deleted" in gone.json()["detail"]
    assert (await probing.delete(address)).status_code == 204
    assert (await probing.get(address)).status_code == 404


async def test_what_cannot_be_made_or_scanned_is_refused_before_work(
    probing: httpx.AsyncClient, engine: AsyncEngine, dictionary: Dictionary, tmp_path: Path
) -> None:
    async with transaction(create_sessionmaker(engine)) as session:
        await make_text_set(
            session, "plenty", [(f"a {mood} day, {n}", mood) for n in range(200) for mood in ("happy", "sad")]
        )
        await add_monitor(session, dictionary.row, own=dictionary.sae)  # type: ignore[arg-type]
        await add_alerts(session, "kings")
    sides = {"positive": {"set": "moods", "label": "happy"}, "benign": "moods:sad"}
    plenty = {"positive": "plenty:happy", "benign": "plenty:sad", "fpr": 0.2}
    for body, status, says in (
        ({"name": "kings", "sae": SLUG, **sides}, 409, "There is a monitor named kings already"),
        ({"name": "fresh", "sae": SLUG, **sides}, 404, "no text set named “moods”"),
        ({"name": "fresh", "sae": SLUG}, 422, "Give positive and benign texts"),
        ({"name": "1", "sae": SLUG, **sides}, 422, "name"),
        (
            {"name": "new", "sae": SLUG, **sides},
            422,
            "params: A monitor cannot be named “new”. Choose another name.",
        ),
        (
            {"name": "fresh", "sae": SLUG, **plenty, "positive_elsewhere": "plenty", "benign_elsewhere": "plenty"},
            422,
            "elsewhere are both plenty",
        ),
        ({"name": "fresh", "sae": SLUG, **plenty, "tokens": "user"}, 422, "plenty:happy has no chat with words of the"),
        ({"name": "fresh", "sae": "none", **sides}, 404, "none"),
        ({"name": "fresh", "sae": SLUG, **sides, "on": "probe", "features": [1]}, 422, "Leave one of them out"),
    ):
        response = await probing.post("/api/v1/monitors", json=body)
        assert response.status_code == status, response.text
        assert says in response.json()["detail"]
    (tmp_path / "texts.json").write_text("[]")
    with (tmp_path / "large.jsonl").open("wb") as file:
        file.truncate(10**9)
    for body, status in (
        ({}, 422),
        ({"textset": "none"}, 404),
        ({"file": "/nowhere.txt"}, 404),
        ({"file": str(tmp_path)}, 422),
        ({"file": str(tmp_path / "texts.json")}, 422),
        ({"file": str(tmp_path / "large.jsonl")}, 413),
    ):
        assert (await probing.post("/api/v1/monitors/kings/scan", json=body)).status_code == status
    listed = (await probing.get("/api/v1/monitors")).json()["monitors"]
    assert [one["name"] for one in listed] == ["kings"]
    number = listed[0]["id"]
    assert (await probing.get(f"/api/v1/monitors/{number}")).json()["name"] == "kings"
    changed = (await probing.put("/api/v1/monitors/kings", json={"notes": "Why", "keep_text": True})).json()
    assert (changed["notes"], changed["keep_text"]) == ("Why", True)
    assert (await probing.put("/api/v1/monitors/kings", json={"candidate": "words"})).status_code == 409
