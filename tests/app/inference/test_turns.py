"""Turns of requests: their order, their number, and those whose client has gone."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from app.errors import Busy, ClientGone
from app.inference.turns import Turns


async def waits() -> dict[str, str]:
    """As `receive` of a client that waits."""
    await asyncio.Future()
    raise AssertionError


@asynccontextmanager
async def held(turns: Turns) -> AsyncIterator[None]:
    """Hold the only turn."""
    async with turns.take(waits):
        yield


async def until_waiting(turns: Turns, number: int) -> None:
    while turns.waiting < number:  # noqa: ASYNC110 - nothing announces it
        await asyncio.sleep(0)


async def test_turns_are_taken_one_at_a_time_in_order() -> None:
    turns, order, inside = Turns(1, 10), [], 0

    async def work(number: int) -> None:
        nonlocal inside
        async with turns.take(waits):
            inside += 1
            assert inside == 1
            await asyncio.sleep(0)
            order.append(number)
            inside -= 1

    await asyncio.gather(*(work(number) for number in range(5)))
    assert order == list(range(5))


async def test_more_than_may_wait_are_told_when_to_try_again() -> None:
    turns = Turns(1, 2)

    async def work() -> None:
        async with turns.take(waits):
            pass

    async with held(turns):
        waiting = [asyncio.create_task(work()) for _ in range(2)]
        await until_waiting(turns, 2)
        with pytest.raises(Busy, match=r"Try again in \d+ s") as caught:
            await work()
        assert caught.value.retry_after >= 1
    await asyncio.gather(*waiting)
    await work()


async def test_work_whose_client_has_gone_never_starts_and_frees_its_place() -> None:
    turns, gone, started = Turns(1, 1), asyncio.Event(), []

    async def leaves() -> dict[str, str]:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def work() -> None:
        async with turns.take(leaves):
            started.append(1)

    async with held(turns):
        waiting = asyncio.create_task(work())
        await until_waiting(turns, 1)
        gone.set()
        with pytest.raises(ClientGone):
            await waiting
        assert turns.waiting == 0
    with pytest.raises(ClientGone):  # its turn comes at once, and it has gone already
        await work()
    assert not started
    async with held(turns):  # no turn was lost
        pass


async def test_a_turn_is_given_back_by_work_that_fails_or_is_cancelled() -> None:
    turns = Turns(1, 1)

    async def fail() -> None:
        async with turns.take(waits):
            raise RuntimeError

    async def work() -> None:
        async with turns.take(waits):
            pass

    with pytest.raises(RuntimeError):
        await fail()
    async with held(turns):
        waiting = asyncio.create_task(work())
        await until_waiting(turns, 1)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert turns.waiting == 0
    await work()
