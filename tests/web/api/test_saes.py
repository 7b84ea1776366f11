import httpx
import numpy as np
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from tests.factories import METRICS, Synthetic, make_sae
from tests.web.api.problems import problem

pytestmark = pytest.mark.read_only


@pytest.mark.own_database
async def test_without_saes_the_list_is_empty(client: httpx.AsyncClient) -> None:
    assert (await client.get("/api/v1/saes")).json() == {"saes": []}


async def test_all_saes_are_listed(client: httpx.AsyncClient, made: Synthetic) -> None:
    [listed] = (await client.get("/api/v1/saes")).json()["saes"]
    assert listed["slug"] == made.sae.slug
    assert listed["hook"] == "resid_post.1"
    assert (listed["d_in"], listed["d_sae"], listed["k"]) == (16, 24, 4)
    assert listed["metrics"] == METRICS
    assert listed["model"]["name"] == "tiny"
    assert listed["index"]["tokens"] == made.features.tokens
    assert listed["index"]["corpus"]["licence"] == "CC0-1.0"
    assert listed["index"]["provenance"]["seed"] == 0


async def test_an_sae_has_an_overview_of_its_features(client: httpx.AsyncClient, made: Synthetic) -> None:
    one = (await client.get(f"/api/v1/saes/{made.sae.slug}")).json()
    histogram = one["density_histogram"]
    active = int((made.features.activations > 0).any(axis=(1, 2)).sum())
    assert sum(histogram["counts"]) == active
    assert histogram["dead"] == 24 - active
    assert len(histogram["edges"]) == len(histogram["counts"]) + 1
    assert one["health"]["dead"] == 24 - active
    assert one["config"]["k"] == 4
    nearest = [row.near_cosine[0] for row in made.features.rows() if row.near_cosine]
    assert one["redundancy_histogram"] == np.histogram(np.clip(nearest, 0, 0.999), bins=40, range=(0, 1))[0].tolist()


@pytest.mark.own_database
async def test_an_sae_without_an_index_has_a_null_index(client: httpx.AsyncClient, engine: AsyncEngine) -> None:
    made = await make_sae(engine, publish=False)
    one = (await client.get(f"/api/v1/saes/{made.sae.slug}")).json()
    assert one["index"] is None
    assert one["density_histogram"] is None
    assert one["health"] == {}


@pytest.mark.parametrize("slug", ["unknown", "%00", "x" * 5_000, "<script>", "..%2f..", "%F0%9F%A7%A0"])
async def test_an_unknown_sae_is_named_in_the_error(client: httpx.AsyncClient, made: Synthetic, slug: str) -> None:
    found = problem(await client.get(f"/api/v1/saes/{slug}/features"), 404)
    if slug == "unknown":
        assert "“unknown”" in found["detail"]
