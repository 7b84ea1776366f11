import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from app.settings import Settings
from tests.factories import Synthetic, add_run
from tests.web.api.problems import problem
from tests.web.site import site


async def test_runs_are_paged_newest_first(client: httpx.AsyncClient, made: Synthetic, session: AsyncSession) -> None:
    runs = [await add_run(session, made.sae, steps=3, ends=ends) for ends in ("done", "failed", "running", "done")]
    await session.commit()
    seen, cursor = [], None
    for _ in range(3):
        params = {"limit": "2"} | ({"cursor": cursor} if cursor else {})
        page = (await client.get("/api/v1/runs", params=params)).json()
        seen += page["runs"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert [run["id"] for run in seen] == [run.id for run in reversed(runs)]
    assert cursor is None


async def test_a_run_has_its_parameters_and_result(
    client: httpx.AsyncClient, made: Synthetic, session: AsyncSession
) -> None:
    run = await add_run(session, made.sae, steps=3, ends="failed")
    await session.commit()
    found = (await client.get(f"/api/v1/runs/{run.id}")).json()
    assert found["state"] == "failed"
    assert "learning rate" in found["error"]
    assert found["sae"] == made.sae.slug
    assert [stage["name"] for stage in found["stages"]] == ["tokenise", "train", "index"]
    assert found["params"]["k"] == 4
    assert "Run 999 does not exist" in problem(await client.get("/api/v1/runs/999"), 404)["detail"]
    problem(await client.get(f"/api/v1/runs/{10**30}"), 422)


async def test_a_run_is_submitted_once_cancelled_and_retried(client: httpx.AsyncClient, made: Synthetic) -> None:
    body = {"kind": "index", "params": {"sae": made.sae.slug}}
    answered = await client.post("/api/v1/runs", json=body)
    assert answered.status_code == 202, answered.text
    run = answered.json()
    assert answered.headers["location"] == f"/api/v1/runs/{run['id']}"
    assert (run["state"], run["queue_position"], run["worker"]) == ("queued", 1, None)
    assert (await client.post("/api/v1/runs", json=body)).json()["id"] == run["id"]
    cancelled = await client.post(f"{answered.headers['location']}/cancel")
    assert (cancelled.status_code, cancelled.json()["state"]) == (200, "cancelled")
    problem(await client.post(f"{answered.headers['location']}/cancel"), 409)
    retried = await client.post(f"{answered.headers['location']}/retry")
    assert (retried.status_code, retried.json()["state"], retried.json()["queue_position"]) == (202, "queued", 1)
    problem(await client.post(f"{answered.headers['location']}/retry"), 409)
    problem(await client.post("/api/v1/runs/999/retry"), 404)


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"kind": "dance", "params": {}}, 404, "no kind of run"),
        ({"kind": "index", "params": {}}, 422, "sae"),
        ({"kind": "index", "params": {"sae": "a", "tokens": "many"}}, 422, "tokens"),
        ({"kind": "index", "params": {"sae": "a", "width": 4}}, 422, "width"),
        ({"kind": "index", "params": []}, 422, "params"),
        ({"params": {}}, 422, "kind"),
    ],
)
async def test_a_run_that_is_not_one_is_refused(
    client: httpx.AsyncClient, body: dict[str, object], status: int, says: str
) -> None:
    assert says in problem(await client.post("/api/v1/runs", json=body), status)["detail"]
    assert (await client.get("/api/v1/runs")).json()["runs"] == []


async def test_runs_are_filtered_by_state_and_kind(
    client: httpx.AsyncClient, made: Synthetic, session: AsyncSession
) -> None:
    runs = [await add_run(session, made.sae, steps=3, ends=ends) for ends in ("done", "failed", "done")]
    await session.commit()

    async def listed(**params: str) -> list[int]:
        page = (await client.get("/api/v1/runs", params=params)).json()
        return [run["id"] for run in page["runs"]]

    assert await listed(state="done") == [runs[2].id, runs[0].id]
    assert await listed(state="failed", kind=runs[1].kind) == [runs[1].id]
    assert await listed(kind="dance") == []
    problem(await client.get("/api/v1/runs", params={"state": "asleep"}), 422)


async def test_a_site_beyond_its_machine_takes_no_runs_unless_told(database_url: str, made: Synthetic) -> None:
    body = {"kind": "index", "params": {"sae": made.sae.slug}}
    public = Settings(database_url=database_url, host="0.0.0.0", anyone_may_write=True)
    async with site(public) as client:
        for address in ("/api/v1/runs", "/api/v1/runs/1/cancel", "/api/v1/runs/1/retry"):
            assert "SEESAE_SUBMIT_RUNS" in problem(await client.post(address, json=body), 403)["detail"]
    async with site(public.model_copy(update={"submit_runs": True})) as client:
        assert (await client.post("/api/v1/runs", json=body)).status_code == 202


async def test_positions_are_counted_in_a_long_queue(
    client: httpx.AsyncClient, made: Synthetic, session: AsyncSession
) -> None:
    await session.execute(
        text(
            "INSERT INTO run (kind, title, params, stages, created_by, job_id) "
            "SELECT 'train', 'Train', '{}', '[]', 'tester', number FROM generate_series(1, 10000) AS number"
        )
    )
    await session.commit()
    first = (await client.get("/api/v1/runs", params={"limit": "200"})).json()["runs"]
    assert [run["queue_position"] for run in first[:2]] == [10000, 9999]
    assert (await client.get("/")).status_code == 200
