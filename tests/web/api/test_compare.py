import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from app.queries.runs import Stage, create_run
from tests.comparing import NARROW, WIDE, make_pair
from tests.conftest import only_reads
from tests.factories import Synthetic, make_sae
from tests.web.api.problems import problem

pytestmark = pytest.mark.read_only

BOTH = {"a": NARROW, "b": WIDE}
COMPARE = "/api/v1/compare"


@pytest.fixture
def pair(request: pytest.FixtureRequest) -> tuple[Synthetic, Synthetic]:
    """Two compared SAEs."""
    return request.getfixturevalue("module_pair" if only_reads(request) else "own_pair")


@pytest.fixture(scope="module")
async def module_pair(module_engine: AsyncEngine) -> tuple[Synthetic, Synthetic]:
    return await make_pair(module_engine)


@pytest.fixture
async def own_pair(engine: AsyncEngine) -> tuple[Synthetic, Synthetic]:
    return await make_pair(engine)


async def test_a_comparison_is_symmetric(client: httpx.AsyncClient, pair: tuple[Synthetic, Synthetic]) -> None:
    ours = (await client.get(COMPARE, params={**BOTH, "show": "split"})).json()
    theirs = (await client.get(COMPARE, params={"a": WIDE, "b": NARROW})).json()
    assert (ours["a"], ours["b"]) == (theirs["b"], theirs["a"])
    assert ours["a"]["sae"] == NARROW
    assert ours["current"] is True
    assert ours["tokens"] == pair[0].features.tokens
    assert ours["total"] == ours["a"]["split"] == len(ours["features"]) > 0
    assert theirs["total"] == theirs["a"]["matched_by_activity"]
    assert ours["provenance"]["thresholds"]["part_given"] == 0.5


async def test_a_list_is_paged(client: httpx.AsyncClient, pair: tuple[Synthetic, Synthetic]) -> None:
    query = {"a": WIDE, "b": NARROW, "show": "unmatched", "limit": "10"}
    found: list[int] = []
    cursor = None
    while True:
        page = (await client.get(COMPARE, params=query | ({"cursor": cursor} if cursor else {}))).json()
        found += [row["feature"] for row in page["features"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert len(found) == len(set(found)) == page["total"] == 35


async def test_a_feature_has_counterparts_in_other_saes(
    client: httpx.AsyncClient, pair: tuple[Synthetic, Synthetic]
) -> None:
    (found,) = (await client.get(f"/api/v1/saes/{NARROW}/features/12/counterparts")).json()["counterparts"]
    assert found["sae"] == WIDE
    assert found["parts"] == len(found["parts_of_it"]) > 1
    for part in found["parts_of_it"]:
        path = f"/api/v1/saes/{WIDE}/features/{part['index']}/counterparts"
        (back,) = (await client.get(path)).json()["counterparts"]
        assert back["parent"]["index"] == 12
        assert back["parent"]["given_this"] == part["given_other"] >= 0.5
        assert back["parent"]["given_other"] == part["given_this"]


@pytest.mark.own_database
async def test_an_sae_without_comparisons_has_no_counterparts(client: httpx.AsyncClient, made: Synthetic) -> None:
    answer = await client.get(f"/api/v1/saes/{made.sae.slug}/features/3/counterparts")
    assert answer.json() == {"counterparts": []}


@pytest.mark.own_database
@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({"a": NARROW}, 422),
        ({"a": NARROW, "b": "nobody"}, 404),
        ({"a": NARROW, "b": "no\0body"}, 404),
        ({"a": NARROW, "b": NARROW}, 422),
        ({"a": NARROW, "b": "third"}, 404),
        ({**BOTH, "show": "all"}, 422),
        ({**BOTH, "limit": "0"}, 422),
        ({**BOTH, "cursor": "x"}, 422),
    ],
)
async def test_bad_requests_are_problems(
    client: httpx.AsyncClient,
    engine: AsyncEngine,
    pair: tuple[Synthetic, Synthetic],
    query: dict[str, str],
    status: int,
) -> None:
    await make_sae(engine, slug="third")
    problem(await client.get(COMPARE, params=query), status)


@pytest.mark.own_database
async def test_a_comparison_under_way_is_named_instead_of_its_command(
    client: httpx.AsyncClient, engine: AsyncEngine, session: AsyncSession
) -> None:
    for slug in ("a", "b"):
        await make_sae(engine, slug=slug)
    both = {"a": "a", "b": "b"}
    assert "run seesae compare a b" in problem(await client.get(COMPARE, params=both), 404)["detail"]
    stages = [Stage("compare", "Compare the features of both")]
    run = await create_run(session, kind="compare", title="", params=both, stages=stages, created_by="ada")
    await session.commit()
    assert (
        f"GET /api/v1/runs/{run.id}" in problem(await client.get(COMPARE, params={"a": "b", "b": "a"}), 404)["detail"]
    )
