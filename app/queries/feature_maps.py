"""Maps of an index's features: coordinates, and values to colour by."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import bindparam, func, select
from sqlalchemy.dialects.postgresql import aggregate_order_by, insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.queries.effects import effect_summaries
from app.queries.saes import SaeDetail
from app.queries.sql.expressions import submitted
from app.queries.sql.pg_safe import clean_json
from app.tables import Feature, FeatureMap, Label


@dataclass(frozen=True, slots=True)
class FeaturePoints:
    """All features of an index: columns of equal length, by feature."""

    index: Sequence[int]
    density: Sequence[float]
    max: Sequence[float]
    topic: Sequence[int]
    """Most preferred topic of each feature; -1 for none."""
    topics: tuple[str, ...]
    labelled: Sequence[int]
    """Features with a submitted label."""
    effect: Sequence[float | None]
    """Ratio of each feature's effect to chance; None if it was not measured."""
    x: Sequence[float] | None
    """Coordinates on the map of directions; None until a map exists."""
    y: Sequence[float] | None


async def put_map(
    session: AsyncSession, sae: SaeDetail, x: Sequence[float], y: Sequence[float], settings: Mapping[str, Any]
) -> None:
    """Write the map of the SAE's current index, replacing an earlier one."""
    assert sae.index is not None
    values = {"x": list(x), "y": list(y), "settings": clean_json(settings)}
    new = insert(FeatureMap).values(index_id=sae.index.id, **values)
    await session.execute(new.on_conflict_do_update(index_elements=["index_id"], set_=values))


async def map_settings(session: AsyncSession, sae: SaeDetail) -> Mapping[str, Any] | None:
    """Return the settings of the current index's map; None if there is no map."""
    if sae.index is None:
        return None
    return await session.scalar(select(FeatureMap.settings).where(FeatureMap.index_id == sae.index.id))


async def feature_points(session: AsyncSession, sae: SaeDetail) -> FeaturePoints | None:
    """Return all features of the SAE's current index; None if there is no index."""
    if sae.index is None:
        return None
    index = {"index": sae.index.id}
    numbers, density, maximum, topic = (await session.execute(_COLUMNS, index)).one()
    place = (await session.execute(_PLACES, index)).one_or_none()
    effects = await effect_summaries(session, sae.id)
    labelled = await session.scalars(_LABELLED, {"sae": sae.id})
    return FeaturePoints(
        index=numbers or [],
        density=density or [],
        max=maximum or [],
        topic=topic or [],
        topics=sae.index.topics,
        labelled=list(labelled),
        effect=[effects[number].ratio if number in effects else None for number in numbers or []],
        x=[place.x[number] for number in numbers] if place else None,
        y=[place.y[number] for number in numbers] if place else None,
    )


_by_number = Feature.number.asc()
_COLUMNS = select(
    func.array_agg(aggregate_order_by(Feature.number, _by_number)),
    func.array_agg(aggregate_order_by(Feature.density, _by_number)),
    func.array_agg(aggregate_order_by(Feature.max, _by_number)),
    func.array_agg(aggregate_order_by(func.coalesce(Feature.topics[1], -1), _by_number)),
).where(Feature.index_id == bindparam("index"))
_PLACES = select(FeatureMap.x, FeatureMap.y).where(FeatureMap.index_id == bindparam("index"))
_LABELLED = select(Label.feature).where(Label.sae_id == bindparam("sae"), submitted).distinct().order_by(Label.feature)
