"""Synchronous work in a thread, awaited."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

R = TypeVar("R")


async def in_thread(function: Callable[[], R], interrupt: Callable[[], None]) -> R:
    """Call `function` in a thread; if this task is cancelled, `interrupt` it first, and wait until it has stopped."""
    future = asyncio.get_running_loop().run_in_executor(None, function)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        interrupt()
        await asyncio.wait({future})
        future.exception()  # it was told to stop: its exception is expected
        raise
