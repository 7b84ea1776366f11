"""Audits over the API."""

import csv
import io

import httpx
from sqlalchemy.ext.asyncio import AsyncSession

from tests.audits import RAW, add_audit
from tests.factories import Synthetic, add_run


async def test_an_audit_with_its_summary_and_raw_values(
    client: httpx.AsyncClient, session: AsyncSession, made: Synthetic
) -> None:
    number = await add_audit(session, made.sae, (await add_run(session, made.sae)).id)
    await session.commit()
    listed = (await client.get("/api/v1/audits", params={"sae": made.sae.slug})).json()
    assert [one["id"] for one in listed["audits"]] == [number]
    whole = (await client.get(f"/api/v1/audits/{number}")).json()
    assert (whole["score"], whole["interval"], whole["pairs"], whole["on"]) == (0.6, [0.55, 0.65], 400, "crows-pairs")
    assert whole["summary"][0].startswith("The model finds")
    assert whole["limits"][-2] == "Only pairs in English."
    assert [one["kind"] for one in whole["result"]["treatments"][:2]] == ["none", "features"]
    raw = await client.get(f"/api/v1/audits/{number}/raw")
    assert (raw.text, raw.headers["content-type"]) == (RAW, "application/jsonl")
    table = await client.get(f"/api/v1/audits/{number}/raw", params={"format": "csv"})
    assert list(csv.reader(io.StringIO(table.text))) == [
        ["item", "log_probs.1", "log_probs.2"],
        ["'=<b>", "-3.5", "-4"],
    ]
    assert (await client.delete(f"/api/v1/audits/{number}")).status_code == 204
    for address in ("", "/raw", "/report.html"):
        missing = await client.get(f"/api/v1/audits/{number}{address}")
        assert missing.status_code == 404
        assert "no audit" in missing.json()["detail"]


async def test_what_cannot_be_audited_is_refused_before_any_work(client: httpx.AsyncClient, made: Synthetic) -> None:
    for body, status, says in [
        ({"sae": "none", "on": "crows-pairs"}, 404, "no SAE"),
        ({"sae": made.sae.slug, "on": "none"}, 404, "none"),
        ({"sae": made.sae.slug, "on": "/none.jsonl"}, 404, "/none.jsonl"),
        ({"sae": made.sae.slug, "on": "crows-pairs", "features": [24]}, 422, "no feature 24"),
        ({"sae": made.sae.slug, "on": "crows-pairs", "pairs": 1}, 422, "pairs"),
        ({"sae": made.sae.slug}, 422, "on"),
    ]:
        refused = await client.post("/api/v1/audits", json=body)
        assert refused.status_code == status, refused.text
        assert says in refused.text
