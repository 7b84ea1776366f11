"""The queue of requests: its order, its length, and those whose client has gone."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from app.errors import Busy, ClientGone
from app.inference.scheduler import Scheduler


async def waits() -> dict[str, str]:
    """As `receive` of a client that waits."""
    await asyncio.Future()
    raise AssertionError


@asynccontextmanager
async def held(scheduler: Scheduler) -> AsyncIterator[None]:
    """Hold the only turn."""
    async with scheduler.take("holder", waits):
        yield


async def until_waiting(scheduler: Scheduler, number: int) -> None:
    while scheduler.waiting < number:  # noqa: ASYNC110 - nothing announces it
        await asyncio.sleep(0)


async def work(scheduler: Scheduler, client: str, done: list[str]) -> None:
    async with scheduler.take(client, waits):
        done.append(client)


async def enqueued(scheduler: Scheduler, clients: str, done: list[str]) -> list[asyncio.Task[None]]:
    """Let these clients, a letter each, ask in this order while the only turn is held."""
    tasks = []
    for number, client in enumerate(clients, start=scheduler.waiting + 1):
        tasks.append(asyncio.create_task(work(scheduler, client, done)))
        await until_waiting(scheduler, number)
    return tasks


async def test_one_request_works_at_a_time_in_order() -> None:
    scheduler, order, inside = Scheduler(1, 10), [], 0

    async def one(number: int) -> None:
        nonlocal inside
        async with scheduler.take("a", waits):
            inside += 1
            assert inside == 1
            await asyncio.sleep(0)
            order.append(number)
            inside -= 1

    await asyncio.gather(*(one(number) for number in range(5)))
    assert order == list(range(5))


async def test_clients_take_turns() -> None:
    scheduler, done = Scheduler(1, 10), list[str]()
    async with held(scheduler):
        tasks = await enqueued(scheduler, "aaaabbc", done)
    await asyncio.gather(*tasks)
    assert "".join(done) == "abcabaa"


async def test_more_than_may_wait_are_told_when_to_try_again() -> None:
    scheduler, done = Scheduler(1, 2), list[str]()
    async with held(scheduler):
        tasks = await enqueued(scheduler, "ab", done)
        with pytest.raises(Busy, match=r"Try again in \d+ s") as caught:
            await work(scheduler, "c", done)
        assert caught.value.retry_after >= 1
    await asyncio.gather(*tasks)
    await work(scheduler, "c", done)
    assert done == ["a", "b", "c"]


async def test_a_full_queue_takes_the_place_of_the_client_with_the_most_waiting() -> None:
    scheduler, done = Scheduler(1, 4), list[str]()
    async with held(scheduler):
        many = await enqueued(scheduler, "aaaa", done)
        other = asyncio.create_task(work(scheduler, "b", done))
        with pytest.raises(Busy):
            await many[3]
        with pytest.raises(Busy):
            await work(scheduler, "a", done)
        assert scheduler.waiting == 4
    await asyncio.gather(*many[:3], other)
    assert "".join(done) == "abaa"


async def test_work_that_had_a_turn_is_not_refused() -> None:
    scheduler = Scheduler(1, 1)

    async def go_on() -> None:
        async with scheduler.take("a", admitted=True):
            pass

    async with held(scheduler):
        going = [asyncio.create_task(go_on()) for _ in range(3)]
        await until_waiting(scheduler, 3)
        for client in ("a", "b"):  # neither for more of the same client, nor for another
            with pytest.raises(Busy):
                async with scheduler.take(client):
                    raise AssertionError
    await asyncio.gather(*going)


async def test_work_whose_client_has_gone_never_starts_and_frees_its_place() -> None:
    scheduler, gone, started = Scheduler(1, 1), asyncio.Event(), []

    async def leaves() -> dict[str, str]:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def one() -> None:
        async with scheduler.take("a", leaves):
            started.append(1)

    async with held(scheduler):
        waiting = asyncio.create_task(one())
        await until_waiting(scheduler, 1)
        gone.set()
        with pytest.raises(ClientGone):
            await waiting
        assert scheduler.waiting == 0
    async with held(scheduler):  # no turn was lost
        pass
    assert not started


async def test_work_learns_that_its_client_has_gone() -> None:
    scheduler, gone = Scheduler(1, 1), asyncio.Event()

    async def leaves() -> dict[str, str]:
        await gone.wait()
        return {"type": "http.disconnect"}

    async with scheduler.take("a", leaves) as turn:
        turn.raise_if_gone()
        gone.set()
        for _ in range(3):
            await asyncio.sleep(0)
        with pytest.raises(ClientGone):
            turn.raise_if_gone()


async def test_a_turn_is_given_back_by_work_that_fails_or_is_cancelled() -> None:
    scheduler = Scheduler(1, 1)

    async def fail() -> None:
        async with scheduler.take("a", waits):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail()
    async with held(scheduler):
        [waiting] = await enqueued(scheduler, "a", [])
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert scheduler.waiting == 0
    chosen = None
    async with held(scheduler):
        [chosen] = await enqueued(scheduler, "a", [])
    chosen.cancel()  # in the moment in which it got its turn
    await asyncio.gather(chosen, return_exceptions=True)
    await work(scheduler, "a", [])
