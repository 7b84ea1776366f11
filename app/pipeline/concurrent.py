"""Do one thing for many items on the event loop, several at a time, in a run that can be cancelled."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from app.runs.context import StageProgress

LOOK_SECONDS = 0.5
"""Seconds between two checks of a waiting run for its cancellation."""


async def for_each(
    items: Sequence[int], do: Callable[[int], Awaitable[None]], *, limit: int, progress: StageProgress
) -> None:
    """Call `do` for all items, `limit` at a time; the first error, or the end of the run, cancels the others."""
    waiting = iter(items)
    running: set[asyncio.Task[None]] = set()
    done = 0
    try:
        while True:
            while len(running) < limit and (item := next(waiting, None)) is not None:
                running.add(asyncio.ensure_future(do(item)))
            progress(done, len(items))
            if not running:
                return
            ended, running = await asyncio.wait(running, timeout=LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if errors := [error for task in ended if (error := task.exception()) is not None]:
                raise errors[0]
            done += len(ended)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
