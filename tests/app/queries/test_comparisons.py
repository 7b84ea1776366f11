from typing import get_args

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from app.errors import Unprocessable
from app.queries.comparisons import (
    ComparisonView,
    Counterpart,
    Listing,
    comparisons_tag,
    counterparts_everywhere,
    get_comparison,
    get_counterparts,
    get_parts,
    list_compared,
    list_comparisons,
    list_counterparts,
)
from tests.comparing import compare, make_pair
from tests.conftest import only_reads
from tests.factories import Synthetic, add_label, make_sae

pytestmark = pytest.mark.read_only

Pair = tuple[Synthetic, Synthetic]


@pytest.fixture
def pair(request: pytest.FixtureRequest) -> Pair:
    """Two compared SAEs."""
    return request.getfixturevalue("module_pair" if only_reads(request) else "own_pair")


@pytest.fixture(scope="module")
async def module_pair(module_engine: AsyncEngine) -> Pair:
    return await make_pair(module_engine)


@pytest.fixture
async def own_pair(engine: AsyncEngine) -> Pair:
    return await make_pair(engine)


async def seen(session: AsyncSession, this: Synthetic, other: Synthetic) -> ComparisonView:
    found = await get_comparison(session, this.sae, other.sae)
    assert found is not None
    return found


async def everything(session: AsyncSession, view: ComparisonView, of_other: bool) -> dict[int, Counterpart]:
    return await get_counterparts(session, view, range(60), of_other=of_other)


async def test_both_directions_return_the_same_comparison(session: AsyncSession, pair: Pair) -> None:
    narrow, wide = pair
    ours, theirs = await seen(session, narrow, wide), await seen(session, wide, narrow)
    assert (ours.id, ours.this, ours.other) == (theirs.id, theirs.other, theirs.this)
    assert (ours.this["features"], ours.other["features"]) == (24, 60)
    assert ours.is_of(narrow.sae, wide.sae)
    assert await everything(session, ours, True) == await everything(session, theirs, False)
    assert await everything(session, ours, False) == await everything(session, theirs, True)
    assert [view.other_id for view in await list_comparisons(session, wide.sae)] == [narrow.sae.id]
    assert await list_compared(session, limit=5) == [(narrow.sae.id, wide.sae.id)]


async def test_conditional_shares_agree_with_dense_activations(session: AsyncSession, pair: Pair) -> None:
    narrow, wide = pair
    on, others = (each.features.activations.reshape(len(each.features.weights), -1) > 0 for each in pair)
    for feature, own in (await everything(session, await seen(session, narrow, wide), False)).items():
        for partner in (own.near, own.coactive, own.parent):
            if partner is None or not on[feature].any() or not others[partner.index].any():
                continue
            joint = int((on[feature] & others[partner.index]).sum())
            assert partner.joint == joint
            assert partner.given_this == pytest.approx(joint / on[feature].sum())
            assert partner.given_other == pytest.approx(joint / others[partner.index].sum())
    assert own.best is own.near  # the last one is dead: nothing correlates with it
    assert own.coactive is None


async def test_parts_of_a_feature_name_it_as_their_parent(session: AsyncSession, pair: Pair) -> None:
    view = await seen(session, *pair)
    wide = await everything(session, view, True)
    for feature, own in (await everything(session, view, False)).items():
        parts = await get_parts(session, view, feature)
        assert sorted(part.feature for part in parts) == sorted(
            each.feature for each in wide.values() if each.parent and each.parent.index == feature
        )
        assert len(parts) == own.parts
        joints = [part.parent.joint or 0 for part in parts if part.parent]
        assert joints == sorted(joints, reverse=True)
        assert len(await get_parts(session, view, feature, limit=1)) == min(1, own.parts)
        assert own.covered is None or 0 <= own.covered <= 1


@pytest.mark.parametrize("of_other", [False, True])
@pytest.mark.parametrize("listing", get_args(Listing))
async def test_lists_agree_with_a_filter_in_memory_on_every_page(
    session: AsyncSession, pair: Pair, listing: Listing, of_other: bool
) -> None:
    view = await seen(session, *pair)
    counts = (pair[1] if of_other else pair[0]).features.activations.reshape(60 if of_other else 24, -1) > 0

    def key(own: Counterpart) -> float:
        if listing == "split":
            return own.parts
        if listing == "unmatched":
            return int(counts[own.feature].sum())
        assert own.coactive is not None
        assert own.coactive.correlation is not None
        return own.coactive.correlation

    def listed(own: Counterpart) -> bool:
        if listing == "split":
            return own.parts > 1
        if listing == "unmatched":
            return not own.near_matched and not own.coactive_matched and bool(counts[own.feature].any())
        return own.coactive_matched

    whole = await everything(session, view, of_other)
    expected = sorted(filter(listed, whole.values()), key=lambda own: (key(own), own.feature), reverse=True)
    found: list[Counterpart] = []
    cursor = None
    while True:
        page = await list_counterparts(session, view, listing, of_other=of_other, limit=4, cursor=cursor)
        assert page.total == len(expected)
        found += page.rows
        cursor = page.next_cursor
        if cursor is None:
            break
        assert len(page.rows) == 4
        with pytest.raises(Unprocessable, match="another order"):
            await list_counterparts(session, view, listing, of_other=not of_other, cursor=cursor)
    assert found == expected


@pytest.mark.own_database
async def test_comparison_by_direction_alone_has_no_activity(session: AsyncSession, engine: AsyncEngine) -> None:
    narrow, wide = await make_pair(engine, activity=False)
    view = await seen(session, narrow, wide)
    assert (view.tokens, view.sequence_set_id) == (0, None)
    assert not view.is_of(narrow.sae, wide.sae)
    own = (await everything(session, view, False))[3]
    assert own.near is not None
    assert (own.near.correlation, own.near.joint, own.near.given_this, own.near.given_other) == (None,) * 4
    assert own.coactive is own.parent is own.covered is None
    assert own.matched is own.near_matched
    matched = await list_counterparts(session, view, "matched")
    assert matched.total == view.this["matched_by_direction"] > 0
    assert (await list_counterparts(session, view, "unmatched")).total == view.this["unmatched"]


@pytest.mark.own_database
async def test_a_new_comparison_replaces_the_old_one(session: AsyncSession, engine: AsyncEngine, pair: Pair) -> None:
    before, tag = await seen(session, *pair), await comparisons_tag(session, pair[0].sae.id)
    await session.commit()
    await compare(engine, *pair, activity=False)
    after = await seen(session, *pair)
    assert (before.tokens > 0, after.tokens) == (True, 0)
    assert await session.scalar(text("SELECT count(DISTINCT comparison_id) FROM feature_match")) == 1
    assert await comparisons_tag(session, pair[0].sae.id) != tag


@pytest.mark.own_database
async def test_a_label_on_the_other_sae_changes_the_tag(session: AsyncSession, pair: Pair) -> None:
    tag = await comparisons_tag(session, pair[0].sae.id)
    await add_label(session, pair[1].sae, 3, "rivers")
    assert await comparisons_tag(session, pair[0].sae.id) != tag


@pytest.mark.own_database
async def test_counterparts_are_found_in_every_compared_sae(
    session: AsyncSession, engine: AsyncEngine, pair: Pair
) -> None:
    third = await make_sae(engine, slug="third", features=40, sequences=80)
    assert await counterparts_everywhere(session, await list_comparisons(session, third.sae), 3) == {}
    await compare(engine, pair[0], third)
    views = await list_comparisons(session, pair[0].sae)
    assert [view.other_id for view in views] == [third.sae.id, pair[1].sae.id]
    found = await counterparts_everywhere(session, views, 3)
    for view in views:
        assert found[view.id] == (await everything(session, view, False))[3]
    assert await counterparts_everywhere(session, views, 10**6) == {}


@pytest.mark.own_database
async def test_deleting_either_sae_deletes_the_comparison(session: AsyncSession, pair: Pair) -> None:
    await session.execute(text("UPDATE sae SET current_index_id = NULL"))
    await session.execute(text("DELETE FROM sae WHERE id = :id").bindparams(id=pair[0].sae.id))
    assert await session.scalar(text("SELECT count(*) FROM comparison")) == 0
    assert await session.scalar(text("SELECT count(*) FROM feature_match")) == 0


async def test_invalid_kinds_limits_and_cursors_are_refused(session: AsyncSession, pair: Pair) -> None:
    view = await seen(session, *pair)
    with pytest.raises(Unprocessable, match="matched, unmatched, split"):
        await list_counterparts(session, view, "lost")  # type: ignore[arg-type]
    with pytest.raises(Unprocessable, match="1 to 200"):
        await list_counterparts(session, view, "split", limit=0)
    with pytest.raises(Unprocessable, match="not one that a page gave"):
        await list_counterparts(session, view, "split", cursor="nonsense")
