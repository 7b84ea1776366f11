"""What others do, as it happens: one connection of this process listens, and tells the open pages.

A page is told that something changed and not what: it asks again, under the rules of what its reader may see. So a
page that is open costs no query until there is something new on it.
"""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import psycopg
import structlog

from app.database_url import CONNECT_TIMEOUT, libpq_url
from app.errors import Busy, Unavailable
from app.queries.activity import CHANNEL

log = structlog.get_logger("web")

MAX_STREAMS = 1_000
"""Streams that this process keeps open; a page without one shows what others did when it is loaded again."""
MAX_WAITING = 100
"""Changes that are kept for a page until it is told of them."""
_RECONNECT_SECONDS = 1.0
_ALIVE = {
    "connect_timeout": str(CONNECT_TIMEOUT),
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
}
"""Without keep-alives a connection whose other end vanished would be listened to for hours."""


@dataclass(frozen=True, slots=True)
class Change:
    """An act on a feature, on a set where `feature` is None, or on a monitor; alerts are nobody's.

    It is `withheld` in a blind set that is not closed.
    """

    id: int
    person_id: int | None
    sae_id: int | None
    label_set_id: int | None
    monitor_id: int | None
    feature: int | None
    withheld: bool


@dataclass(slots=True, eq=False)
class Subscription:
    """Changes that an open page was not told yet, by id; or that it `missed` some, of which there were too many."""

    wants: Callable[[Change], bool]
    waiting: dict[int, Change] = field(default_factory=dict)
    missed: bool = False
    _new: asyncio.Event = field(default_factory=asyncio.Event)

    def add(self, change: Change) -> None:
        """Tell the page of a change, if it wants to know."""
        if not self.wants(change):
            return
        if len(self.waiting) < MAX_WAITING:
            self.waiting[change.id] = change
        else:
            self.missed = True
        self._new.set()

    def add_missed(self) -> None:
        """Tell the page that changes may have been missed."""
        self.missed = True
        self._new.set()

    async def next(self) -> tuple[list[Change], bool]:
        """Wait for something new; return the changes, in order, and whether others may have been missed."""
        await self._new.wait()
        self._new.clear()
        changes, missed = sorted(self.waiting.values(), key=lambda change: change.id), self.missed
        self.waiting, self.missed = {}, False
        return changes, missed


class Changes:
    """Listens to the database for as long as there are open pages to tell."""

    def __init__(self, database_url: str, *, limit: int = MAX_STREAMS) -> None:
        self._url = libpq_url(database_url, application_name="seesae changes", **_ALIVE)
        self._limit = limit
        self._open: set[Subscription] = set()
        self._listens = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @contextmanager
    def subscribe(self, wants: Callable[[Change], bool]) -> Iterator[Subscription]:
        """Yield a subscription to the changes that a page wants to know.

        Raises:
            Busy: too many pages are open.
        """
        if len(self._open) >= self._limit:
            raise Busy(retry_after=60)
        subscription = Subscription(wants)
        self._open.add(subscription)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._listen())
        try:
            yield subscription
        finally:
            self._open.discard(subscription)

    async def listening(self) -> None:
        """Wait until nothing that is committed from now on is missed.

        Raises:
            Unavailable: the database cannot be reached.
        """
        try:
            await asyncio.wait_for(self._listens.wait(), CONNECT_TIMEOUT)
        except TimeoutError:
            raise Unavailable("The database cannot be reached: what others do is not shown live.") from None

    async def close(self) -> None:
        """Stop listening."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _listen(self) -> None:
        """Tell what is notified; connect again whenever the database went away."""
        connected_before = False
        while True:
            try:
                async with await psycopg.AsyncConnection.connect(self._url, autocommit=True) as connection:
                    await connection.execute(f"LISTEN {CHANNEL}")
                    self._listens.set()
                    if connected_before:
                        self._tell_missed()
                    connected_before = True
                    async for notification in connection.notifies():
                        self._tell(notification.payload)
            except psycopg.Error as error:
                log.warning("changes_lost", reason=str(error).strip().partition("\n")[0])
            finally:
                self._listens.clear()
            await asyncio.sleep(_RECONNECT_SECONDS)

    def _tell(self, payload: str) -> None:
        try:
            change = Change(**json.loads(payload))
        except (TypeError, ValueError):  # of another version of SeeSAE on the same database
            self._tell_missed()
            return
        for subscription in self._open:
            subscription.add(change)

    def _tell_missed(self) -> None:
        for subscription in self._open:
            subscription.add_missed()
