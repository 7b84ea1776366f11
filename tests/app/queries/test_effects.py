"""Effects are written whole, replaced, listed, and deleted with their SAE."""

from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.queries.effects import effect_summaries, get_effect, put_effects
from app.queries.feature_list import FeatureFilter, list_features
from app.queries.feature_maps import feature_points
from app.queries.features import get_feature
from app.tables import FeatureEffect, Sae
from tests.effects import effect
from tests.factories import Synthetic, add_run


async def put(session: AsyncSession, made: Synthetic, *effects: dict[str, Any]) -> int:
    run = (await add_run(session)).id
    await put_effects(session, made.sae.id, run, effects, {"corpus": "held out"})
    await session.commit()
    return run


async def test_an_effect_is_read_as_it_was_written(made: Synthetic, session: AsyncSession) -> None:
    run = await put(session, made, effect(3, 3.1, (2.7, 3.6)))
    found = await get_effect(session, made.sae, 3)
    assert found is not None
    assert (found.run, found.tokens, found.contexts) == (run, 200, 12)
    assert found.ratio == pytest.approx(3.1)
    assert found.interval == pytest.approx((2.7, 3.6))
    assert found.used
    assert [token.change for token in found.promoted] == [0.02, 0.01]
    assert found.provenance == {"corpus": "held out"}
    assert await get_effect(session, made.sae, 4) is None
    detail = await get_feature(session, made.sae, 3)
    assert detail is not None
    assert detail.effect == found


async def test_a_later_run_replaces_effects_of_the_same_features_alone(made: Synthetic, session: AsyncSession) -> None:
    await put(session, made, effect(3, 3.0, (2.0, 4.0)), effect(4, 1.0, (0.5, 1.5)))
    await put(session, made, effect(4, 2.0, (1.5, 2.5)))
    known = await effect_summaries(session, made.sae.id)
    assert {feature: round(own.ratio or 0, 3) for feature, own in known.items()} == {3: 3.0, 4: 2.0}
    assert known[4].used


async def test_pages_tags_change_with_effects(made: Synthetic, session: AsyncSession) -> None:
    changes = select(Sae.label_changes).where(Sae.id == made.sae.id)
    before = await session.scalar(changes)
    await put(session, made, effect(3, 3.0, (2.0, 4.0)))
    assert await session.scalar(changes) != before


async def test_features_are_sorted_and_filtered_by_effect(made: Synthetic, session: AsyncSession) -> None:
    await put(
        session, made, effect(3, 1.0, (0.5, 1.5)), effect(5, 4.0, (3.0, 5.0)), effect(1, 2.0, (1.5, 2.5)), effect(2)
    )
    by_effect = FeatureFilter(sort="effect", limit=2)
    first = await list_features(session, made.sae, by_effect)
    assert [row.index for row in first.rows] == [5, 1]
    second = await list_features(session, made.sae, FeatureFilter(sort="effect", limit=2, cursor=first.next_cursor))
    assert second.rows[0].index == 3
    assert first.total == made.sae.indexed
    used = await list_features(session, made.sae, FeatureFilter(sort="effect", effect="used"))
    assert ([row.index for row in used.rows], used.total) == ([5, 1], 2)
    measured = await list_features(session, made.sae, FeatureFilter(effect="measured"))
    assert {row.index for row in measured.rows} == {1, 2, 3, 5}
    assert {row.effect.used for row in used.rows if row.effect} == {True}


async def test_the_map_has_the_ratio_of_measured_features(made: Synthetic, session: AsyncSession) -> None:
    await put(session, made, effect(5, 4.0, (3.0, 5.0)))
    points = await feature_points(session, made.sae)
    assert points is not None
    known = dict(zip(points.index, points.effect, strict=True))
    assert known.pop(5) == 4.0
    assert set(known.values()) == {None}


async def test_effects_go_with_their_sae(made: Synthetic, session: AsyncSession) -> None:
    from app.queries.deletions import delete_sae

    await put(session, made, effect(5, 4.0, (3.0, 5.0)))
    assert made.sae.index is not None
    await delete_sae(session, made.sae.id, [made.sae.index.id])
    assert await session.scalar(select(func.count()).select_from(FeatureEffect)) == 0
