from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import update
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from app.errors import NotFound, Unprocessable
from app.queries.saes import SaeDetail, get_sae
from app.services.leaderboard import Entry, Group, Leaderboard, Measured, get_leaderboard, mark_frontiers
from app.tables import Sae
from tests.comparing import compare
from tests.factories import Synthetic, make_sae
from tests.measured import TEXT, add, measured
from tests.probing import probing


async def board(session: AsyncSession, **query: str) -> Leaderboard:
    found = await get_leaderboard(session, **query)
    assert found is not None
    return found


def slugs(group: Group) -> list[str]:
    return [entry.sae.slug for entry in group.entries]


async def test_without_saes_there_is_none(session: AsyncSession) -> None:
    assert await get_leaderboard(session) is None


async def test_only_saes_measured_on_the_same_text_share_a_group(session: AsyncSession, made: Synthetic) -> None:
    other = measured(9, 0.9, 0.95, held_out={**TEXT, "sequences": "b" * 64})
    fewer = measured(9, 0.9, 0.95, ce_tokens=10)
    await add(session, made, "one", measured(8, 0.8, 0.9))
    await add(session, made, "two", measured(16, 0.85, 0.94))
    await add(session, made, "elsewhere", other)
    await add(session, made, "fewer", fewer)
    await add(session, made, "never")
    await add(session, made, "deeper", measured(8, 0.8, 0.9), hook="resid_post.2")
    groups = (await board(session)).groups
    assert [slugs(group) for group in groups] == [
        ["two", "one"],
        ["fewer"],
        ["elsewhere"],
        [made.sae.slug],  # measured before the text was recorded
        ["never"],
        ["deeper"],
    ]
    assert [group.text is None for group in groups] == [False, False, False, True, True, False]
    assert [group.is_measured for group in groups] == [True, True, True, True, False, True]
    assert groups[5].hook == "resid_post.2"
    assert groups[0].entries[0].figures["explained_variance"] == Measured(0.85, 0.84, 0.87)
    assert groups[0].entries[0].figures["l0"] == Measured(16)
    assert groups[3].entries[0].frontier == frozenset(), "a frontier needs figures that compare"


async def test_every_column_sorts_and_what_is_missing_is_last(session: AsyncSession, made: Synthetic) -> None:
    good = probing(imdb={}, languages={})
    bad = probing(imdb={"random": (-0.2, -0.3, -0.1)})
    await add(session, made, "a", measured(8, 0.8, 0.97, probing=bad), d_sae=32, samples=10)
    await add(session, made, "b", measured(32, 0.9, 0.9, probing=good), d_sae=64)
    await add(session, made, "c", measured(16, 0.7, 0.95, dead_fraction=0.0), d_sae=16, samples=5)
    expected = {
        "": "bac",
        "name": "abc",
        "l0": "acb",
        "explained_variance": "bac",
        "ce_recovered": "acb",
        "dead": "cab",
        "probing": "bac",
        "d_sae": "cab",
        "samples": "cab",
        "architecture": "abc",
        "stability": "abc",
    }
    for sort, order in expected.items():
        assert "".join(slugs((await board(session, sort=sort)).groups[0])) == order, sort
    assert "".join(slugs((await board(session, sort="samples", order="desc")).groups[0])) == "acb"
    assert "".join(slugs((await board(session, sort="probing", order="asc")).groups[0])) == "abc"


async def test_what_does_not_exist_is_refused(session: AsyncSession, made: Synthetic) -> None:
    with pytest.raises(NotFound, match=r"named “gpt-2”.* tiny"):
        await get_leaderboard(session, model="gpt-2")
    with pytest.raises(Unprocessable, match="no order “size”"):
        await get_leaderboard(session, sort="size")
    with pytest.raises(Unprocessable, match="no direction “up”"):
        await get_leaderboard(session, order="up")


async def test_stability_is_of_saes_that_differ_in_their_seed_alone(engine: AsyncEngine, session: AsyncSession) -> None:
    pair = []
    for seed in (0, 1):
        made = await make_sae(engine, slug=f"seed-{seed}", features=24, sequences=80)
        pair.append(made)
        await _set_config(session, made.sae, seed=seed, samples=100)
    third = await make_sae(engine, slug="same-seed", features=24, sequences=80)
    await _set_config(session, third.sae, seed=0, samples=100)
    wide = await make_sae(engine, slug="wide", features=60, sequences=80)
    await _set_config(session, wide.sae, seed=1, samples=100)
    await session.commit()
    await compare(engine, pair[0], third)
    await compare(engine, pair[0], wide)
    assert not any(entry.stability for entry in (await board(session)).groups[0].entries)
    await compare(engine, *pair)
    found = {entry.sae.slug: entry.stability for entry in (await board(session)).groups[0].entries}
    stability = found["seed-0"]
    assert stability is not None
    assert (stability.other, stability.features) == ("seed-1", 24)
    assert stability.share == 23 / 24, "the same features under another name, one of them without a direction"
    assert found["seed-1"] == replace(stability, other="seed-0")
    assert found["wide"] is None


async def _set_config(session: AsyncSession, sae: SaeDetail, **config: Any) -> None:
    await session.execute(update(Sae).where(Sae.id == sae.id).values(config=dict(sae.config) | config))
    assert await get_sae(session, sae.slug)


@pytest.mark.parametrize(
    ("points", "frontier"),
    [
        ({"a": (8, 0.8), "b": (16, 0.9), "c": (16, 0.85), "d": (32, 0.9)}, {"a", "b"}),
        ({"a": (8, 0.8), "b": (8, 0.8)}, {"a", "b"}),
        ({"a": (8, 0.8), "b": (8, 0.7)}, {"a"}),
        ({"a": (8, 0.8), "b": (9, 0.8)}, {"a"}),
        ({"a": (8, 0.8), "b": (9, 0.9), "c": (10, 0.85), "d": (7, 0.1)}, {"a", "b", "d"}),
        ({}, set()),
    ],
)
def test_the_frontier_has_what_no_other_dominates(
    points: dict[str, tuple[float, float]], frontier: set[str], made: Synthetic
) -> None:
    entries = [
        Entry(
            replace(made.sae, slug=slug),
            {"l0": Measured(l0), "explained_variance": Measured(variance), "ce_recovered": Measured(1 - variance)},
            None,
            None,
        )
        for slug, (l0, variance) in points.items()
    ]
    found = mark_frontiers(entries)
    assert {entry.sae.slug for entry in found if "explained_variance" in entry.frontier} == frontier
    dominated = {
        one
        for one, (l0, variance) in points.items()
        for other, (less, more) in points.items()
        if less <= l0 and more >= variance and (less < l0 or more > variance)
    }
    assert frontier == set(points) - dominated
