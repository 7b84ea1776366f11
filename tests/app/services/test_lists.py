"""Rules of lists. What a list holds in which order is held against a plain Python list."""

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest
from sqlalchemy import delete
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from app.db import transaction
from app.errors import NotFound, Unprocessable
from app.queries.lists import ListView, list_items, summaries
from app.queries.saes import SaeDetail
from app.services.actors import Actor
from app.services.lists import (
    MAX_DESCRIPTION,
    MAX_ITEMS,
    MAX_NAME,
    MAX_NOTE,
    ListConflict,
    ListText,
    NewItem,
    add_item,
    create_list,
    delete_list,
    describe_list,
    find_list,
    move_item,
    remove_item,
    replace_list,
    write_note,
)
from app.tables import Sae
from tests.factories import make_sae

ADA = Actor("ada")

Create = Callable[..., Awaitable[ListView]]


@pytest.fixture
async def sae(engine: AsyncEngine) -> SaeDetail:
    return (await make_sae(engine, slug="one", publish=False)).sae


@pytest.fixture
async def other(engine: AsyncEngine) -> SaeDetail:
    return (await make_sae(engine, slug="two", features=30, publish=False)).sae


@pytest.fixture
def create(session: AsyncSession, sae: SaeDetail) -> Create:
    async def create(*features: int, name: str = "Rivers", description: str = "") -> ListView:
        items = [NewItem("one", feature, f"note {feature}") for feature in features]
        return await create_list(session, ListText(name, description), items, actor=ADA)

    return create


async def held(session: AsyncSession, of: ListView) -> list[tuple[str, int]]:
    return [(item.sae, item.feature) for item in await list_items(session, of.id)]


async def test_a_list_holds_features_of_several_saes_in_order(
    session: AsyncSession, sae: SaeDetail, other: SaeDetail
) -> None:
    items = [NewItem("two", 29, " first "), NewItem("one", 3), NewItem("two", 0, "line\r\nline")]
    made = await create_list(session, ListText("  Rivers\tand  lakes ", " why \r\n so "), items, actor=ADA)
    assert (made.name, made.description, made.author, made.version) == ("Rivers and lakes", "why \n so", "ada", 1)
    assert await find_list(session, made.public_id) == made
    found = await list_items(session, made.id)
    assert [(item.sae_id, item.sae, item.feature, item.note) for item in found] == [
        (other.id, "two", 29, "first"),
        (sae.id, "one", 3, ""),
        (other.id, "two", 0, "line\nline"),
    ]
    assert [summary.saes for summary in await summaries(session, [made])] == [(("two", 2), ("one", 1))]


async def test_public_ids_are_random(create: Create) -> None:
    addresses = {(await create()).public_id for _ in range(20)}
    assert len(addresses) == 20
    assert {len(address) for address in addresses} == {12}
    assert len({address[:4] for address in addresses}) == 20


@pytest.mark.parametrize("seed", range(8))
async def test_any_sequence_of_changes_agrees_with_a_python_list(
    session: AsyncSession, sae: SaeDetail, other: SaeDetail, create: Create, seed: int
) -> None:
    """Any sequence of changes gives what the same changes give in a Python list, notes included."""
    choose = random.Random(seed)
    made = await create()
    expected: list[tuple[str, int]] = []
    everything = [(each.slug, feature) for each in (sae, other) for feature in range(8)]
    for step in range(120):
        free = [each for each in everything if each not in expected]
        action = choose.choice(["add", "add", "insert", "up", "down", "down", "remove", "undo", "replace"])
        place = choose.randrange(len(expected)) if expected else 0
        if action == "add" and free:
            added = choose.choice(free)
            await add_item(session, made.public_id, NewItem(*added), actor=ADA)
            expected.append(added)
        elif action == "insert" and free and expected:
            added = choose.choice(free)
            before = (await list_items(session, made.id))[place].position
            await add_item(session, made.public_id, NewItem(*added), actor=ADA, position=before)
            expected.insert(place, added)
        elif action in ("up", "down") and expected:
            await move_item(session, made.public_id, *expected[place], actor=ADA, up=action == "up")
            beside = place + (-1 if action == "up" else 1)
            if 0 <= beside < len(expected):
                expected[place], expected[beside] = expected[beside], expected[place]
        elif action in ("remove", "undo") and expected:
            taken = await remove_item(session, made.public_id, *expected[place], actor=ADA, read_version=10**6)
            if action == "undo":
                await add_item(session, made.public_id, NewItem(*expected[place]), actor=ADA, position=taken.position)
            else:
                del expected[place]
        elif action == "replace" and step % 20 == 0:
            choose.shuffle(expected)
            version = (await find_list(session, made.public_id)).version
            items = [NewItem(*each) for each in expected]
            await replace_list(session, made.public_id, ListText("Rivers"), items, actor=ADA, expected_version=version)
        assert await held(session, made) == expected, (step, action)


async def test_only_real_changes_increment_the_version(session: AsyncSession, create: Create) -> None:
    made = await create(1, 2)
    address = made.public_id
    assert (await describe_list(session, address, ListText("Lakes", "still"), actor=ADA, read_version=1)).version == 2
    assert (await describe_list(session, address, ListText(" Lakes", "still"), actor=ADA, read_version=1)).version == 2
    assert (await write_note(session, address, "one", 1, "wide", actor=ADA, read_version=2)).version == 3
    assert (await write_note(session, address, "one", 1, "wide", actor=ADA, read_version=1)).version == 3
    assert (await move_item(session, address, "one", 2, actor=ADA, up=True)).version == 4
    assert (await move_item(session, address, "one", 2, actor=ADA, up=True)).version == 4
    assert (await move_item(session, address, "one", 1, actor=ADA, up=False)).version == 4
    assert (await add_item(session, address, NewItem("one", 5), actor=ADA)).version == 5
    await remove_item(session, address, "one", 5, actor=ADA, read_version=5)
    now = await find_list(session, address)
    assert (now.version, now.text_version, now.name, now.description) == (6, 2, "Lakes", "still")
    assert [item.note for item in await list_items(session, now.id)] == ["note 2", "wide"]


async def test_only_the_changed_part_is_stale(session: AsyncSession, create: Create) -> None:
    """Two who opened the same version can each change another part."""
    made = await create(1, 2)
    address = made.public_id
    await write_note(session, address, "one", 1, "hers", actor=ADA, read_version=1)
    await write_note(session, address, "one", 2, "his", actor=ADA, read_version=1)
    await describe_list(session, address, ListText("Lakes"), actor=ADA, read_version=1)
    await move_item(session, address, "one", 2, actor=ADA, up=True)

    with pytest.raises(ListConflict) as note:
        await write_note(session, address, "one", 1, "mine", actor=ADA, read_version=1)
    assert note.value.item
    assert (note.value.item.note, note.value.current.version) == ("hers", 5)
    with pytest.raises(ListConflict) as text:
        await describe_list(session, address, ListText("Ponds"), actor=ADA, read_version=1)
    assert (text.value.current.name, text.value.item) == ("Lakes", None)
    with pytest.raises(ListConflict) as removal:
        await remove_item(session, address, "one", 1, actor=ADA, read_version=1)
    assert removal.value.item == note.value.item
    assert [item.note for item in await list_items(session, made.id)] == ["his", "hers"]

    await write_note(session, address, "one", 1, "mine", actor=ADA, read_version=note.value.current.version)
    await describe_list(session, address, ListText("Ponds"), actor=ADA, read_version=text.value.current.version)


@pytest.mark.parametrize("version", [-1, 0, 1, 4, 2**40])
async def test_replacing_a_list_needs_its_current_version(session: AsyncSession, create: Create, version: int) -> None:
    made = await create(1)
    await add_item(session, made.public_id, NewItem("one", 2), actor=ADA)
    await add_item(session, made.public_id, NewItem("one", 4), actor=ADA)
    with pytest.raises(ListConflict) as stale:
        await replace_list(session, made.public_id, ListText("Lakes"), [], actor=ADA, expected_version=version)
    assert (stale.value.current.version, stale.value.current.name) == (3, "Rivers")
    with pytest.raises(ListConflict):
        await delete_list(session, made.public_id, actor=ADA, expected_version=version)
    assert await held(session, made) == [("one", 1), ("one", 2), ("one", 4)]


async def test_a_removed_item_cannot_be_changed(session: AsyncSession, create: Create) -> None:
    made = await create(1)
    await remove_item(session, made.public_id, "one", 1, actor=ADA, read_version=1)
    for change in (
        write_note(session, made.public_id, "one", 1, "x", actor=ADA, read_version=2),
        move_item(session, made.public_id, "one", 1, actor=ADA, up=True),
        remove_item(session, made.public_id, "one", 1, actor=ADA, read_version=2),
        move_item(session, made.public_id, "nul\0", 1, actor=ADA, up=True),
        move_item(session, made.public_id, "one", 2**70, actor=ADA, up=True),
    ):
        with pytest.raises(ListConflict) as gone:
            await change
        assert gone.value.item is None
        assert gone.value.current.version == 2


async def test_concurrent_additions_are_all_kept(sae: SaeDetail, engine: AsyncEngine) -> None:
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    async with transaction(sessions) as session:
        made = await create_list(session, ListText("Rivers"), actor=ADA)

    async def add(feature: int) -> None:
        async with transaction(sessions) as session:
            await add_item(session, made.public_id, NewItem("one", feature), actor=ADA)

    await asyncio.gather(*(add(feature) for feature in range(6)))
    async with transaction(sessions) as session:
        assert sorted(await held(session, made)) == [("one", feature) for feature in range(6)]
        assert (await find_list(session, made.public_id)).version == 7


async def test_one_of_two_concurrent_notes_is_refused(sae: SaeDetail, engine: AsyncEngine) -> None:
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    async with transaction(sessions) as session:
        made = await create_list(session, ListText("Rivers"), [NewItem("one", 1)], actor=ADA)

    connected = asyncio.Barrier(4)

    async def change(note: str) -> None:
        async with transaction(sessions) as session:
            await session.connection()
            await connected.wait()
            await write_note(session, made.public_id, "one", 1, note, actor=ADA, read_version=1)

    outcomes = await asyncio.gather(*(change(f"note {place}") for place in range(4)), return_exceptions=True)
    assert sorted(type(each).__name__ for each in outcomes) == ["ListConflict"] * 3 + ["NoneType"]
    async with transaction(sessions) as session:
        assert (await find_list(session, made.public_id)).version == 2
        [item] = await list_items(session, made.id)
    assert item.note == f"note {outcomes.index(None)}"


@pytest.mark.parametrize(
    "text",
    [
        ListText(""),
        ListText(" \n"),
        ListText("x" * (MAX_NAME + 1)),
        ListText("nul\0"),
        ListText("half \ud800"),
        ListText("x", "x" * (MAX_DESCRIPTION + 1)),
        ListText("x", "nul\0"),
    ],
)
async def test_invalid_list_texts_are_refused(session: AsyncSession, create: Create, text: ListText) -> None:
    made = await create(1)
    for change in (
        create_list(session, text, actor=ADA),
        describe_list(session, made.public_id, text, actor=ADA, read_version=1),
        replace_list(session, made.public_id, text, [], actor=ADA, expected_version=1),
    ):
        with pytest.raises(Unprocessable) as refused:
            await change
        assert "\n" not in str(refused.value)
    assert await find_list(session, made.public_id) == made


@pytest.mark.parametrize(
    ("items", "said"),
    [
        ([NewItem("none", 1)], "no SAE “none”"),
        ([NewItem("nul\0", 1)], "no SAE"),
        ([NewItem("one", 24)], "0 to 23"),
        ([NewItem("one", -1)], "0 to 23"),
        ([NewItem("one", 2**70)], "0 to 23"),
        ([NewItem("one", 1), NewItem("one", 2), NewItem("one", 1)], "given twice"),
        ([NewItem("one", 1, "x" * (MAX_NOTE + 1))], "500"),
        ([NewItem("one", 1, "nul\0")], "NUL"),
        ([NewItem("one", 1)] * (MAX_ITEMS + 1), "5,000"),
    ],
)
async def test_invalid_items_are_refused(
    session: AsyncSession, create: Create, items: list[NewItem], said: str
) -> None:
    made = await create(5)
    with pytest.raises(Unprocessable, match=said):
        await create_list(session, ListText("x"), items, actor=ADA)
    with pytest.raises(Unprocessable, match=said):
        await replace_list(session, made.public_id, ListText("x"), items, actor=ADA, expected_version=1)
    assert await held(session, made) == [("one", 5)]


async def test_list_texts_at_the_limits_are_allowed(session: AsyncSession, sae: SaeDetail) -> None:
    text = ListText("é" * MAX_NAME, "é" * MAX_DESCRIPTION)
    made = await create_list(session, text, [NewItem("one", 23, "é" * MAX_NOTE)], actor=Actor("a" * 80))
    assert (made.name, made.description) == (text.name, text.description)


async def test_adding_to_a_full_list_is_refused(
    session: AsyncSession, create: Create, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.services.lists.MAX_ITEMS", 2)
    made = await create(1, 2)
    with pytest.raises(Unprocessable, match="full"):
        await add_item(session, made.public_id, NewItem("one", 3), actor=ADA)


async def test_a_feature_is_listed_at_most_once(session: AsyncSession, create: Create) -> None:
    made = await create(1, name="Rivers")
    assert await add_item(session, made.public_id, NewItem("one", 1, " note 1 "), actor=ADA) == made
    with pytest.raises(Unprocessable, match="Feature 1 of one is in the list “Rivers” already"):
        await add_item(session, made.public_id, NewItem("one", 1, "another note"), actor=ADA)
    for position in (0, -1, 2**31):
        with pytest.raises(Unprocessable, match="position"):
            await add_item(session, made.public_id, NewItem("one", 2), actor=ADA, position=position)


async def test_deleting_a_list_or_an_sae_deletes_its_items(
    session: AsyncSession, sae: SaeDetail, other: SaeDetail
) -> None:
    items = [NewItem("one", 1), NewItem("two", 2), NewItem("one", 3)]
    made = await create_list(session, ListText("Rivers"), items, actor=ADA)
    await session.execute(delete(Sae).where(Sae.id == sae.id))
    assert await held(session, made) == [("two", 2)]
    await move_item(session, made.public_id, "two", 2, actor=ADA, up=True)
    await delete_list(session, made.public_id, actor=ADA)
    assert await held(session, made) == []
    with pytest.raises(NotFound):
        await find_list(session, made.public_id)


@pytest.mark.parametrize("address", ["", "nothing", "nul\0", "x" * 10_000, "\ud800"])
async def test_an_unknown_list_is_not_found(session: AsyncSession, sae: SaeDetail, address: str) -> None:
    for change in (
        find_list(session, address),
        describe_list(session, address, ListText("x"), actor=ADA, read_version=1),
        add_item(session, address, NewItem("one", 1), actor=ADA),
        delete_list(session, address, actor=ADA),
    ):
        with pytest.raises(NotFound, match="/lists"):
            await change


@pytest.mark.parametrize("author", ["", " ", "a" * 81, "nul\0"])
async def test_an_invalid_author_is_refused(session: AsyncSession, author: str) -> None:
    with pytest.raises(Unprocessable, match="author"):
        await create_list(session, ListText("x"), actor=Actor(author))


async def test_a_request_with_a_key_makes_one_list(engine: AsyncEngine, sae: SaeDetail) -> None:
    async def attempt(name: str = "Rivers", author: str = "ada", key: str = "k") -> ListView:
        async with transaction(async_sessionmaker(engine, expire_on_commit=False)) as session:
            return await create_list(session, ListText(name), [NewItem("one", 3)], actor=Actor(author), key=key)

    first, second = await asyncio.gather(attempt(), attempt())
    assert first == second
    assert first == await attempt()
    others = [await attempt("Lakes"), await attempt(author="grace"), await attempt(key="l"), await attempt(key="")]
    assert len({made.id for made in [first, *others]}) == 5
    async with async_sessionmaker(engine)() as session:
        assert [(item.feature, item.position) for item in await list_items(session, first.id)] == [(3, 1)]


async def test_a_list_that_is_replaced_twice_does_not_conflict_with_itself(
    session: AsyncSession, create: Create
) -> None:
    made = await create(1, 2)
    items = [NewItem("one", 2), NewItem("one", 1, "a\r\nb")]
    changed = await replace_list(session, made.public_id, ListText("Lakes"), items, actor=ADA, expected_version=1)
    again = await replace_list(session, made.public_id, ListText("Lakes"), items, actor=ADA, expected_version=1)
    assert again == changed
    with pytest.raises(ListConflict):
        await replace_list(session, made.public_id, ListText("Lakes"), items[::-1], actor=ADA, expected_version=1)


@pytest.mark.parametrize("line_end", ["\r\n", "\r", "\n"])
async def test_a_line_end_of_a_list_is_one_character(session: AsyncSession, create: Create, line_end: str) -> None:
    made = await create(1, description=line_end.join(["x" * 19] * 100))
    assert made.description.count("\n") == 99
    await write_note(session, made.public_id, "one", 1, f"a{line_end}b", actor=ADA, read_version=1)
    [item] = await list_items(session, made.id)
    assert item.note == "a\nb"


async def test_a_list_of_an_invisible_name_is_refused(create: Create) -> None:
    with pytest.raises(Unprocessable, match="needs a name"):
        await create(1, name="\u200b\u200b")
