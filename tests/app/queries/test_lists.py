"""Lists of features of several SAEs, read in a number of queries that does not grow with them."""

from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from app.queries import lists
from app.queries.lists import list_items, list_lists, listed, lists_of_feature
from app.queries.saes import get_sae
from app.services.actors import Actor
from app.services.lists import ListText, NewItem, add_item, create_list
from tests.factories import Synthetic, add_label, make_sae


@pytest.fixture
async def made(engine: AsyncEngine) -> Synthetic:
    return await make_sae(engine, slug="one")


@pytest.fixture
async def bare(engine: AsyncEngine) -> Synthetic:
    return await make_sae(engine, slug="two", publish=False)


async def test_items_are_paged(session: AsyncSession, made: Synthetic) -> None:
    order = [7, 3, 12, 0, 5]
    kept = await create_list(session, ListText("x"), [NewItem("one", each) for each in order], actor=Actor("ada"))
    pages, after = [], 0
    while page := await list_items(session, kept.id, after=after, limit=2):
        pages.append([item.feature for item in page])
        after = page[-1].position
    assert pages == [[7, 3], [12, 0], [5]]
    assert await list_items(session, kept.id, after=2**70) == []
    assert len(await list_items(session, kept.id, after=-(2**70))) == 5


async def test_rows_equal_those_of_the_feature_list(session: AsyncSession, made: Synthetic, bare: Synthetic) -> None:
    await add_label(session, made.sae, 3, "law")
    await add_label(session, bare.sae, 3, "music")
    items = [NewItem("two", 3), NewItem("one", 3, "look"), NewItem("one", 23), NewItem("two", 4)]
    kept = await create_list(session, ListText("x"), items, actor=Actor("ada"))
    unknown, known, dead, unlabelled = await listed(session, await list_items(session, kept.id))
    assert known.row
    truth = made.features.rows()[3]
    assert (known.row.density, known.row.count) == (truth.density, truth.count)
    assert known.row.example
    assert known.sae == await get_sae(session, "one")
    assert (known.label and known.label.explanation, known.item.note) == ("law", "look")
    assert dead.row
    assert dead.row.health == ("dead",)
    assert unknown.row is None
    assert unknown.label
    assert unknown.label.explanation == "music"
    assert (unlabelled.row, unlabelled.label) == (None, None)


async def test_number_of_queries_is_independent_of_the_number_of_features(
    engine: AsyncEngine, session: AsyncSession, made: Synthetic
) -> None:
    async def asked(features: int) -> int:
        items = [NewItem("one", feature) for feature in range(features)]
        kept = await create_list(session, ListText("x"), items, actor=Actor("ada"))
        found = await list_items(session, kept.id)
        statements: list[str] = []

        def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
            statements.append(statement)

        event.listen(engine.sync_engine, "before_cursor_execute", note)
        await listed(session, found)
        event.remove(engine.sync_engine, "before_cursor_execute", note)
        return len(statements)

    await asked(24)  # and now every token is known
    assert await asked(24) == await asked(2) <= 6


async def test_lists_are_paged_newest_first(session: AsyncSession, made: Synthetic) -> None:
    names = ["a", "b", "c", "d", "e"]
    for name in names:
        await create_list(session, ListText(name), [NewItem("one", 1)] * (name != "c"), actor=Actor("ada"))
    first, following = await list_lists(session, limit=2)
    assert following == first[-1].list.id
    second, last = await list_lists(session, limit=3, before=following)
    assert last is None
    assert [each.list.name for each in (*first, *second)] == ["e", "d", "c", "b", "a"]
    assert [each.features for each in second] == [0, 1, 1]


async def test_lists_of_a_feature_are_found(
    session: AsyncSession, made: Synthetic, bare: Synthetic, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = await create_list(session, ListText("a"), [NewItem("one", 1, "here"), NewItem("two", 2)], actor=Actor("ada"))
    b = await create_list(session, ListText("b"), [NewItem("one", 2)], actor=Actor("ada"))
    await session.commit()  # a transaction has one time
    await add_item(session, b.public_id, NewItem("one", 3), actor=Actor("ada"))
    await session.commit()
    c = await create_list(session, ListText("c"), actor=Actor("ada"))

    found = await lists_of_feature(session, made.sae.id, 1)
    assert [(each.public_id, each.name, each.note) for each in found.holding] == [(a.public_id, "a", "here")]
    assert [each.public_id for each in found.others] == [c.public_id, b.public_id]
    assert [each.name for each in (await lists_of_feature(session, bare.sae.id, 2)).holding] == ["a"]
    assert (await lists_of_feature(session, bare.sae.id, 1)).holding == ()

    monkeypatch.setattr(lists, "_OF_FEATURE", lists._of_feature(choices=1))
    few = await lists_of_feature(session, made.sae.id, 1)
    assert [each.name for each in few.holding] == ["a"]
    assert [each.name for each in few.others] == ["c"]
