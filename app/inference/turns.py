"""Turns: how many requests work at once, how many wait, and what becomes of those whose client has gone."""

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import Receive

from app.asgi import until_gone
from app.errors import Busy, ClientGone

_WEIGHT = 0.2
"""Of the latest turn in the mean that `Busy` estimates with."""


class Turns:
    """Lets requests work in the order in which they came. For one event loop.

    Args:
        at_once: requests that work at the same time.
        max_waiting: requests that wait; more are refused.
    """

    def __init__(self, at_once: int, max_waiting: int) -> None:
        self._free = asyncio.Semaphore(at_once)
        self._at_once = at_once
        self._max_waiting = max_waiting
        self.waiting = 0
        """Requests that wait now."""
        self._seconds = 0.5

    @asynccontextmanager
    async def take(self, receive: Receive | None = None) -> AsyncIterator[None]:
        """Wait for a turn, and hold it in the body.

        Args:
            receive: of the request, whose body has been read; None waits for work that has no client.

        Raises:
            Busy: too many wait already.
            ClientGone: the client has gone.
        """
        if self.waiting >= self._max_waiting:
            raise Busy(max(1, math.ceil((self.waiting + 1) * self._seconds / self._at_once)))
        self.waiting += 1
        try:
            await self._acquire(receive)
        finally:
            self.waiting -= 1
        began = time.perf_counter()
        try:
            yield
        finally:
            self._free.release()
            self._seconds += _WEIGHT * (time.perf_counter() - began - self._seconds)

    async def _acquire(self, receive: Receive | None) -> None:
        if receive is None:
            await self._free.acquire()
            return
        gone = asyncio.create_task(until_gone(receive))
        turn = asyncio.create_task(self._free.acquire())
        kept = False
        try:
            await asyncio.wait({gone, turn}, return_when=asyncio.FIRST_COMPLETED)
            kept = not gone.done()
        finally:
            gone.cancel()
            if not kept and not turn.cancel():
                self._free.release()
        if not kept:
            raise ClientGone
