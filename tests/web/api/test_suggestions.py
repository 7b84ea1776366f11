"""Suggestions in the API, in fields of their own."""

import csv
import io

import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from app.settings import Settings
from tests.factories import Synthetic
from tests.suggestions import HOSTILE, suggest_some
from tests.web.api.problems import problem
from tests.web.site import site

pytestmark = pytest.mark.own_database


async def test_suggestions_have_fields_of_their_own(
    client: httpx.AsyncClient, made: Synthetic, session: AsyncSession
) -> None:
    base = f"/api/v1/saes/{made.sae.slug}/features"
    ids = await suggest_some(session, made)
    own, plain = (await client.get(f"{base}/3/suggestions")).json()["suggestions"]
    assert (own["id"], own["source"], own["model"], own["text"]) == (ids[0], "model", "small", HOSTILE)
    assert own["scores"]["detection"]["floor"]["f1"]["value"] == 0.5
    assert own["current"] is True
    assert (plain["id"], plain["source"], plain["model"], plain["created_at"]) == (None, "statistics", None, None)
    (failed, *_) = (await client.get(f"{base}/4/suggestions")).json()["suggestions"]
    assert (failed["text"], failed["error"]) == (None, "The answer was cut off.")
    (stored,) = (await client.get(f"{base}/5/suggestions")).json()["suggestions"]
    assert (stored["id"], stored["text"]) == (ids[2], "Mostly “river”")
    feature = (await client.get(f"{base}/3")).json()
    assert feature["labels"] == []
    listed = {row["index"]: row for row in (await client.get(base)).json()["features"]}
    assert (listed[3]["label"], listed[3]["suggestion"]) == (
        None,
        {"text": HOSTILE, "source": "model", "model": "small"},
    )
    assert listed[4]["suggestion"] is None
    rows = csv.DictReader(io.StringIO((await client.get(f"{base}/export?format=csv")).text))
    columns = {row["index"]: (row["label"], row["suggestion_text"], row["suggestion_by"]) for row in rows}
    assert columns["3"] == ("", HOSTILE, "small")
    assert columns["5"] == ("", "Mostly “river”", "statistics")
    problem(await client.get(f"{base}/24/suggestions"), 404)


async def test_a_run_is_queued(client: httpx.AsyncClient, made: Synthetic, settings: Settings) -> None:
    address = f"/api/v1/saes/{made.sae.slug}/suggestions"
    queued = await client.post(address)
    assert queued.status_code == 202, queued.text
    assert queued.headers["location"] == f"/api/v1/runs/{queued.json()['run']}"
    run = (await client.get(queued.headers["location"])).json()
    assert (run["kind"], run["params"]["sae"], run["params"]["sample"]) == ("suggest", made.sae.slug, 64)
    chosen = await client.post(address, json={"features": [1, 2], "source": "statistics", "score": False})
    assert (await client.get(chosen.headers["location"])).json()["params"]["features"] == [1, 2]
    for body, why in (
        ({"features": [24]}, "has no feature 24"),
        ({"source": "magic"}, "source"),
        ({"source": "model"}, "SEESAE_LLM_URL"),
        ({"sample": 0}, "sample"),
        ({"api_key": "x"}, "api_key"),
    ):
        assert why in problem(await client.post(address, json=body), 422)["detail"]
    problem(await client.post("/api/v1/saes/none/suggestions"), 404)
    async with site(settings.model_copy(update={"submit_runs": False})) as closed:
        problem(await closed.post(address), 403)
