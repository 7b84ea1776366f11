"""Decide which request works next: a bounded queue, shared fairly between clients.

Clients take turns: one that sends ten requests does not keep another, who sends one, waiting for ten. A request whose
client has gone gives up its place.
"""

import asyncio
import math
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from starlette.types import Receive

from app.asgi import until_gone
from app.errors import Busy, ClientGone

_WEIGHT = 0.2
"""Of the latest turn in the mean that `Busy` estimates with."""


class Waiter(asyncio.Future[None]):
    """Is done when the turn comes. Work that had turns before is `admitted`: it is not refused half-way."""

    admitted = False


class Turn:
    """A request's turn: it works now."""

    def __init__(self, gone: asyncio.Task[None] | None) -> None:
        self._gone = gone

    def raise_if_gone(self) -> None:
        """Stop work whose client has gone; from any thread.

        Raises:
            ClientGone: it has.
        """
        if self._gone is not None and self._gone.done():
            raise ClientGone


class Scheduler:
    """Lets requests work, one client after the other, and each client's in their order. For one event loop.

    Args:
        at_once: requests that work at the same time.
        max_waiting: requests that wait. Beyond it, the client with the most waiting is refused its newest.
    """

    def __init__(self, at_once: int, max_waiting: int) -> None:
        self._free = at_once
        self._at_once = at_once
        self._max_waiting = max_waiting
        self._queues: OrderedDict[str, deque[Waiter]] = OrderedDict()
        """Waiting requests by client; the first client is next."""
        self._seconds = 0.5

    @property
    def waiting(self) -> int:
        """Requests that wait now."""
        return sum(map(len, self._queues.values()))

    @asynccontextmanager
    async def take(
        self, client: str = "", receive: Receive | None = None, *, admitted: bool = False
    ) -> AsyncIterator[Turn]:
        """Wait for a turn, and hold it in the body.

        Args:
            client: whoever asks; clients take turns.
            receive: of the request, whose body has been read; None waits for work that has no client.
            admitted: the work has begun in an earlier turn, so it is not refused.

        Raises:
            Busy: too many wait already.
            ClientGone: the client has gone.
        """
        gone = None if receive is None else asyncio.create_task(until_gone(receive))
        try:
            await self._wait(client, gone, admitted)
            began = time.perf_counter()
            try:
                yield Turn(gone)
            finally:
                self._release()
                self._seconds += _WEIGHT * (time.perf_counter() - began - self._seconds)
        finally:
            if gone is not None:
                gone.cancel()

    async def _wait(self, client: str, gone: asyncio.Task[None] | None, admitted: bool) -> None:
        """Return with a turn; on any error there is none, and the place in the queue is free."""
        waiter = self._enqueue(client, admitted)
        try:
            await asyncio.wait({waiter, gone} if gone else {waiter}, return_when=asyncio.FIRST_COMPLETED)
            Turn(gone).raise_if_gone()
            waiter.result()
        except BaseException:
            self._leave(client, waiter)
            raise

    def _enqueue(self, client: str, admitted: bool) -> Waiter:
        waiter = Waiter(loop=asyncio.get_running_loop())
        waiter.admitted = admitted
        if self._free > 0:
            self._free -= 1
            waiter.set_result(None)
            return waiter
        if self.waiting >= self._max_waiting and not admitted:
            self._make_place(client)
        self._queues.setdefault(client, deque()).append(waiter)
        return waiter

    def _make_place(self, client: str) -> None:
        """Refuse the newest request of the client with the most waiting.

        Raises:
            Busy: that would be the request of `client`.
        """
        busy = Busy(max(1, math.ceil((self.waiting + 1) * self._seconds / self._at_once)))
        refusable = {
            other: [waiter for waiter in queue if not waiter.admitted] for other, queue in self._queues.items()
        }
        most = max(refusable, key=lambda other: len(refusable[other]), default=client)
        if len(refusable.get(most, ())) <= len(refusable.get(client, ())) + 1:
            raise busy
        refused = refusable[most][-1]
        self._queues[most].remove(refused)
        refused.set_exception(busy)

    def _leave(self, client: str, waiter: Waiter) -> None:
        """Give back the place, or the turn, of a request that ends before its work begins."""
        if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
            self._release()
            return
        waiter.cancel()
        with suppress(KeyError, ValueError):  # it was refused, and has left
            self._queues[client].remove(waiter)
            if not self._queues[client]:
                del self._queues[client]

    def _release(self) -> None:
        """Give the turn to the next client, which then is the last."""
        if not self._queues:
            self._free += 1
            return
        client, queue = self._queues.popitem(last=False)
        queue.popleft().set_result(None)
        if queue:
            self._queues[client] = queue
