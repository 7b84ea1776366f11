"""Folders that machines share by an object store: held by one of all machines, and fetched before work on them begins.

File locks do not reach over machines there, so a lock of the database stands beside them.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from app.object_store import ObjectStore
from app.queries.sql import locks

_POLL_SECONDS = 1.0

Sessions = async_sessionmaker[AsyncSession]


@asynccontextmanager
async def try_hold(sessions: Sessions, store: ObjectStore | None, folder: Path) -> AsyncIterator[bool]:
    """Hold a folder against all other machines; yield False, at once, if another holds it.

    Without an object store there is nothing to hold: the folder's own lock does it.
    """
    if store is None:
        yield True
        return
    engine: AsyncEngine = sessions.kw["bind"]
    subject = f"folder {folder.parent.name}/{folder.name} of {store.address}"
    async with locks.subject_lock(engine, subject) as held:
        yield held


@asynccontextmanager
async def hold(
    sessions: Sessions, store: ObjectStore | None, folder: Path, waiting: Callable[[str], None]
) -> AsyncIterator[None]:
    """Hold a folder as `try_hold`, once it is free; `waiting` is called meanwhile, and may raise."""
    while True:
        async with try_hold(sessions, store, folder) as held:
            if held:
                yield
                return
        waiting("a process of another machine")
        await asyncio.sleep(_POLL_SECONDS)
