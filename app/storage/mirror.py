"""Folders that machines share by an object store: held by one of all machines at a time.

File locks do not reach over machines there, so a lock of the database stands beside them. Without an object store there
is nothing to hold: the folder's own lock does it.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from app.object_store import ObjectStore
from app.queries.sql import locks

_POLL_SECONDS = 1.0

Sessions = async_sessionmaker[AsyncSession]
Hold = Callable[[Path, Callable[[str], None]], AbstractAsyncContextManager[None]]
"""Holds a folder once it is free; the function is called while it is not, and may raise."""


@asynccontextmanager
async def try_hold(sessions: Sessions, store: ObjectStore | None, folder: Path) -> AsyncIterator[bool]:
    """Hold a folder against all other machines; yield False, at once, if another holds it."""
    if store is None:
        yield True
        return
    async with locks.subject_lock(_engine(sessions), _subject(store, folder)) as held:
        yield held


@asynccontextmanager
async def holding(sessions: Sessions, store: ObjectStore | None) -> AsyncIterator[Hold]:
    """Yield what holds folders against all other machines, any number of them on one connection."""
    if store is None:
        yield hold_nothing
        return
    async with locks.subject_locks(_engine(sessions)) as lock:

        @asynccontextmanager
        async def hold(folder: Path, waiting: Callable[[str], None]) -> AsyncIterator[None]:
            while True:
                async with lock(_subject(store, folder)) as held:
                    if held:
                        yield
                        return
                waiting("a process of another machine")
                await asyncio.sleep(_POLL_SECONDS)

        yield hold


@asynccontextmanager
async def hold_nothing(_folder: Path, _waiting: Callable[[str], None]) -> AsyncIterator[None]:
    """Leave a folder to its own lock."""
    yield


def _engine(sessions: Sessions) -> AsyncEngine:
    engine: AsyncEngine = sessions.kw["bind"]
    return engine


def _subject(store: ObjectStore, folder: Path) -> str:
    return f"folder {folder.parent.name}/{folder.name} of {store.address}"
