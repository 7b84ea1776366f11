import httpx
from sqlalchemy.ext.asyncio import AsyncSession

from tests.factories import Synthetic, add_run
from tests.web.api.problems import problem


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
