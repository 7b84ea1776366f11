import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from tests.factories import Synthetic
from tests.measured import TEXT, add, measured
from tests.probing import probing
from tests.web.api.problems import problem

BOARD = "/api/v1/leaderboard"


async def test_saes_come_in_groups_that_compare(
    client: httpx.AsyncClient, session: AsyncSession, made: Synthetic
) -> None:
    sets = probing(imdb={}, languages={"random": (-0.2, -0.3, -0.1)})
    await add(session, made, "small", measured(8, 0.8, 0.9, probing=sets), samples=7)
    await add(session, made, "large", measured(64, 0.9, 0.97))
    await add(session, made, "never")
    await session.commit()
    found = (await client.get(BOARD, params={"model": "tiny", "sort": "l0"})).json()
    assert (found["model"], found["sort"], found["order"]) == ("tiny", "l0", "asc")
    first, _, last = found["groups"]
    assert first["text"] == {"sequences": TEXT["sequences"], "corpus": "Summaries", "tokens": 100, "predictions": 50}
    small, large = first["saes"]
    assert (small["sae"], small["samples"], small["evaluate"]) == ("small", 7, None)
    assert small["explained_variance"] == pytest.approx({"value": 0.8, "low": 0.79, "high": 0.82})
    assert small["l0"] == {"value": 8, "low": None, "high": None}
    assert [(one["set"], one["verdict"]) for one in small["probing"]] == [("imdb", "better"), ("languages", "worse")]
    assert small["frontier"] == large["frontier"] == ["ce_recovered", "explained_variance"]
    assert large["probing"] is None
    assert last["text"] is None
    assert last["saes"][0]["evaluate"] == "seesae evaluate never --corpus CORPUS"


async def test_what_is_not_there_is_refused(client: httpx.AsyncClient, made: Synthetic) -> None:
    assert "gpt-2" in problem(await client.get(BOARD, params={"model": "gpt-2"}), 404)["detail"]
    assert problem(await client.get(BOARD, params={"sort": "size"}), 422)
    assert problem(await client.get(BOARD, params={"order": "up"}), 422)


async def test_without_saes_there_is_no_leaderboard(client: httpx.AsyncClient) -> None:
    assert problem(await client.get(BOARD), 404)["detail"] == "There is no SAE yet."
