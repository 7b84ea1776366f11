"""Comparisons of texts over the API; what is exported suffices to compute the figures again."""

import csv
import io
import json

import httpx
import pytest
from scipy.stats import binomtest
from sqlalchemy.ext.asyncio import AsyncSession

from tests.factories import Synthetic
from tests.text_comparisons import FEATURES, make_text_comparison
from tests.web.api.problems import problem


async def test_a_comparison_is_queued_read_downloaded_and_deleted(
    client: httpx.AsyncClient, made: Synthetic, session: AsyncSession
) -> None:
    saes = f"/api/v1/saes/{made.sae.slug}"
    number, _ = await make_text_comparison(session, made.sae)
    await session.commit()
    sides = {"a": {"name": "moods", "label": "happy"}, "b": "moods:sad"}
    queued = await client.post(f"{saes}/compare-texts", json=sides)
    assert queued.status_code == 202, queued.text
    run = (await client.get(queued.headers["location"])).json()
    assert (run["kind"], run["params"]["a"], run["params"]["b"]) == ("compare-texts", "moods:happy", "moods:sad")
    refused = problem(await client.post(f"{saes}/compare-texts", json={**sides, "b": "moods:angry"}), 422)
    assert "no text with the label “angry”" in refused["detail"]
    problem(await client.post(f"{saes}/compare-texts", json={**sides, "b": "none"}), 404)
    problem(await client.post(f"{saes}/compare-texts", json={"a": "moods"}), 422)

    (listed,) = (await client.get(f"{saes}/text-comparisons")).json()["comparisons"]
    assert (listed["id"], listed["a"], listed["differ"]) == (number, {"set": "moods", "label": "happy"}, 4)
    here = f"/api/v1/text-comparisons/{number}"
    first = (await client.get(here, params={"limit": 2})).json()
    assert [row["feature"] for row in first["features"]] == [1, 2] and first["total"] == 5
    assert first["features"][0]["direction"] == "a" and first["features"][0]["examples"][0]["side"] == "a"
    rest = (await client.get(here, params={"cursor": first["next_cursor"]})).json()
    assert [row["feature"] for row in rest["features"]] == [3, 0, 4]
    only_b = (await client.get(here, params={"direction": "b", "without_tokens": True})).json()
    assert [row["feature"] for row in only_b["features"]] == [3]
    for wrong in ({"order": "luck"}, {"cursor": "x"}, {"min_rate": 2}):
        problem(await client.get(here, params=wrong), 422)
    problem(await client.get("/api/v1/text-comparisons/99"), 404)

    rows = list(csv.DictReader(io.StringIO((await client.get(f"{here}/export")).text)))
    assert [(int(row["feature"]), float(row["auroc"])) for row in rows] == [
        (own["feature"], own["auroc"]) for own in FEATURES
    ]
    lines = (await client.get(f"{here}/export", params={"format": "jsonl"})).text.splitlines()
    assert [json.loads(line)["feature"] for line in lines] == [1, 2, 3, 0, 4]

    assert (await client.delete(here)).status_code == 204
    problem(await client.get(here), 404)


async def test_a_feature_is_given_on_every_text_of_a_set(
    client: httpx.AsyncClient, made: Synthetic, session: AsyncSession
) -> None:
    feature = f"/api/v1/saes/{made.sae.slug}/features/1/textsets"
    problem(await client.get(f"{feature}/moods"), 404)
    await make_text_comparison(session, made.sae)
    await session.commit()
    found = (await client.get(f"{feature}/moods")).json()
    assert found["all"]["texts"] == len(found["texts"]) == 80
    for rate in [*found["labels"], found["all"]]:
        own = [text["activation"] for text in found["texts"] if rate["name"] in (None, text["label"])]
        active = sum(value > 0 for value in own)
        interval = binomtest(active, len(own)).proportion_ci(method="wilson")
        assert (rate["active"], rate["texts"]) == (active, len(own))
        assert rate["interval"] == pytest.approx([interval.low, interval.high])
        assert rate["mean"] == pytest.approx(sum(own) / len(own))
    assert found["groups"] == []
