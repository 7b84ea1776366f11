"""Do one thing for many items on the event loop, several at a time, in a run that can be cancelled."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from sae_core.progress import Progress

T = TypeVar("T")

LOOK_SECONDS = 0.5
"""Seconds between two checks of a waiting run for its cancellation."""


async def for_each(
    items: Sequence[int], do: Callable[[int], Awaitable[T]], *, limit: int, progress: Progress
) -> list[T]:
    """Call `do` for all items, `limit` at a time; the first error, or the end of the run, cancels the others.

    Returns:
        What `do` returned, in the order of the items. A result must not depend on which ended first.
    """
    waiting = iter(items)
    tasks: list[asyncio.Future[T]] = []
    running: set[asyncio.Future[T]] = set()
    done = 0
    try:
        while True:
            while len(running) < limit and (item := next(waiting, None)) is not None:
                tasks.append(asyncio.ensure_future(do(item)))
                running.add(tasks[-1])
            progress(done, len(items))
            if not running:
                return [task.result() for task in tasks]
            ended, running = await asyncio.wait(running, timeout=LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if errors := [error for task in ended if (error := task.exception()) is not None]:
                raise errors[0]
            done += len(ended)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
