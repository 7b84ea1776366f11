import httpx
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from app.tables import FeatureMap
from tests.factories import Synthetic, add_label, make_sae
from tests.web.api.problems import problem


def address(made: Synthetic) -> str:
    return f"/api/v1/saes/{made.sae.slug}/map"


async def test_every_feature_is_a_point(client: httpx.AsyncClient, session: AsyncSession, made: Synthetic) -> None:
    await add_label(session, made.sae, 3, "three")
    await session.commit()
    points = (await client.get(address(made))).json()
    rows = made.features.rows()
    assert points["index"] == list(range(24))
    assert points["density"] == pytest.approx([row.density for row in rows], rel=1e-3)
    assert points["max"] == pytest.approx([row.max for row in rows], rel=1e-3)
    assert points["topic"] == [row.topics[0] if row.topics else -1 for row in rows]
    assert points["topics"] == made.features.topic_names
    assert points["labelled"] == [3]
    stored = await session.get_one(FeatureMap, made.sae.index.id)
    assert points["x"] == pytest.approx(stored.x, abs=1e-3)
    assert points["y"] == pytest.approx(stored.y, abs=1e-3)


async def test_the_points_are_cached_until_a_label_changes(
    client: httpx.AsyncClient, session: AsyncSession, made: Synthetic
) -> None:
    etag = (await client.get(address(made))).headers["ETag"]
    assert (await client.get(address(made), headers={"If-None-Match": etag})).status_code == 304
    await add_label(session, made.sae, 3, "three")
    await session.commit()
    assert (await client.get(address(made), headers={"If-None-Match": etag})).status_code == 200


async def test_points_have_no_position_before_the_map_is_drawn(
    client: httpx.AsyncClient, session: AsyncSession, made: Synthetic
) -> None:
    await session.delete(await session.get_one(FeatureMap, made.sae.index.id))
    await session.commit()
    points = (await client.get(address(made))).json()
    assert points["x"] is None
    assert points["y"] is None
    assert len(points["density"]) == 24


async def test_without_an_index_the_map_is_not_found(client: httpx.AsyncClient, engine: AsyncEngine) -> None:
    made = await make_sae(engine, publish=False)
    assert "no index yet" in problem(await client.get(address(made)), 404)["detail"]
