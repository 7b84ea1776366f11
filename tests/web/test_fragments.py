"""The kept parts of pages: they come back as they were, and the oldest go first."""

import pytest

from app.web.fragments import Fragments


async def part(fragments: Fragments, tag: str, text: str, made: list[str]) -> str:
    async def make() -> str:
        made.append(tag)
        return text

    return str(await fragments.get(tag, make))


async def test_a_part_is_made_once_and_comes_back_as_it_was() -> None:
    fragments, made = Fragments(), list[str]()
    text = "<p>a ‘token’ of كتاب &amp; \n</p>" * 50
    assert [await part(fragments, "tag", text, made) for _ in range(3)] == [text] * 3
    assert await part(fragments, "other", "else", made) == "else"
    assert made == ["tag", "other"]


async def test_the_least_recently_used_are_forgotten_and_the_bytes_stay_below_the_limit() -> None:
    fragments, made = Fragments(1_000), list[str]()
    for tag in ("a", "b", "a", "c", "d", "a"):  # three fit
        await part(fragments, tag, tag, made)
        assert fragments.bytes <= 1_000
    assert made == ["a", "b", "c", "d"]
    await part(fragments, "b", "b", made)
    assert made[-1] == "b"


async def test_two_requests_that_make_the_same_part_keep_it_once() -> None:
    fragments, made = Fragments(), list[str]()

    async def make() -> str:
        await part(fragments, "tag", "text", made)
        return "text"

    await fragments.get("tag", make)
    alone = Fragments()
    await part(alone, "tag", "text", made)
    assert fragments.bytes == alone.bytes


async def test_without_room_nothing_is_kept() -> None:
    fragments, made = Fragments(0), list[str]()
    assert await part(fragments, "tag", "text", made) == "text"
    assert await part(fragments, "tag", "text", made) == "text"
    assert made == ["tag", "tag"]
    assert fragments.bytes == 0


async def test_a_failure_keeps_nothing() -> None:
    fragments = Fragments()

    async def fail() -> str:
        raise LookupError

    with pytest.raises(LookupError):
        await fragments.get("tag", fail)
    assert await part(fragments, "tag", "text", []) == "text"
