import asyncio

import pytest

from app.pipeline.concurrent import for_each


def unseen(done: int, total: int) -> None:
    """Progress that nobody reads."""


async def test_results_are_in_the_order_of_the_items_whichever_ends_first() -> None:
    last_ended = asyncio.Event()

    async def one(item: int) -> int:
        if item == 0:
            await last_ended.wait()
        elif item == 4:
            last_ended.set()
        return item * 10

    assert await for_each(range(5), one, limit=2, progress=unseen) == [0, 10, 20, 30, 40]


async def test_the_first_error_cancels_the_others() -> None:
    cancelled: list[int] = []

    async def one(item: int) -> None:
        if item == 1:
            raise ValueError("no")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(item)
            raise

    with pytest.raises(ValueError, match="no"):
        await for_each(range(4), one, limit=3, progress=unseen)
    assert sorted(cancelled) == [0, 2], "in whatever order"
