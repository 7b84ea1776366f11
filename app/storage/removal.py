"""Remove what is not needed: by `seesae gc`, after a deletion, and by the limit of the activation caches.

A folder is removed under its lock, after another look at the database: a run notes what it uses under the same lock. It
is renamed first, so that a reader sees it whole or not at all, and a kill leaves what `survey` calls half written.
"""

import asyncio
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.artifacts import Artifacts, size_of
from app.errors import Unprocessable, UserError
from app.object_store import ObjectStore
from app.queries import deletions
from app.storage import mirror
from app.storage.survey import Item, assess, read_needs, survey
from sae_core.errors import SAEError
from sae_core.files import unshared_name
from sae_core.locks import FolderLock

Sessions = async_sessionmaker[AsyncSession]

USED = ".used"
"""File in an activation cache whose time is that of its last use."""


@dataclass(frozen=True, slots=True)
class Removed:
    """Result of a removal: what went, with its size, and what did not, with the reason."""

    items: tuple[Item, ...]
    skipped: tuple[tuple[Item, str], ...]

    @property
    def size(self) -> int:
        """Bytes that were freed."""
        return sum(item.size for item in self.items)


async def unneeded(sessions: Sessions, artifacts: Artifacts) -> tuple[list[Item], list[Item]]:
    """Return what is not needed, largest first, and what is left alone because SeeSAE does not know it."""
    needs = await read_needs(sessions)
    found = await asyncio.to_thread(lambda: list(survey(artifacts, needs)))
    garbage = sorted((item for item in found if not item.needed), key=lambda item: -item.size)
    return garbage, [item for item in found if not item.known]


async def remove(
    sessions: Sessions, items: Sequence[Item], *, holder: str, store: ObjectStore | None = None
) -> Removed:
    """Remove what is still not needed of these items; `holder` is what those who wait for a lock are told.

    With an object store they go from there, too; without, only from this machine.
    """
    removed: list[Item] = []
    skipped: list[tuple[Item, str]] = []
    for item in items:
        why = await _remove_one(sessions, item, holder, store)
        if isinstance(why, Item):
            removed.append(why)
        else:
            skipped.append((item, why))
    return Removed(tuple(removed), tuple(skipped))


async def _remove_one(sessions: Sessions, item: Item, holder: str, store: ObjectStore | None) -> Item | str:
    """Return the item as it was removed, or why it was not."""
    # Before the lock, which removes what is half written.
    size = item.size if store else await asyncio.to_thread(size_of, item.path)
    lock = FolderLock(item.owner, holder)
    try:
        if not lock.try_acquire():
            return f"{lock.held_by() or 'another process'} holds its lock"
    except SAEError as error:
        return str(error)
    try:
        async with mirror.try_hold(sessions, store, item.owner) as held:
            if not held:
                return "another machine holds it"
            needs = await read_needs(sessions)
            if item.category != "leftovers":
                now = assess(item.path, needs, item.size if store else None)
                if now.needed:
                    return now.reason
            elif item.path.name.startswith(".import-") and needs.active:
                return "a run is under way"
            try:
                if store is not None and item.category != "leftovers":
                    await asyncio.to_thread(store.remove, item.path)
                await asyncio.to_thread(_discard, item.path)
            except UserError as error:
                return str(error)
            except OSError as error:
                return f"it cannot be removed ({error.strerror})"
    finally:
        lock.release()
    return Item(item.path, item.category, size, needed=False, reason=item.reason)


def _discard(path: Path) -> None:
    if not path.exists():  # half written, and gone with the lock
        return
    if not path.name.endswith(".partial"):
        path = path.rename(unshared_name(path, "partial"))
    shutil.rmtree(path)


async def remove_deleted(sessions: Sessions, artifacts: Artifacts) -> Removed:
    """Remove the folders that deletions left. One that a run makes again, or holds, stays until that has ended."""
    async with sessions() as session:
        names = await deletions.left_folders(session)
    items, done = [], []
    needs = await read_needs(sessions) if names else None
    for name in names:
        path = artifacts.folder(name)
        if path is None:
            done.append(name)
        elif artifacts.store is None and not path.exists():
            if await asyncio.to_thread(_remove_rest, path):
                done.append(name)
        elif needs is not None:
            stored = None if artifacts.store is None else await asyncio.to_thread(artifacts.store.size, path)
            item = assess(path, needs, stored)
            if not item.needed:
                items.append(item)
            elif not item.reason.startswith("run "):  # registered again
                done.append(name)
    removed = await remove(sessions, items, holder="a deletion", store=artifacts.store) if items else Removed((), ())
    async with sessions.begin() as session:
        for name in (*done, *(f"{item.category}/{item.path.name}" for item in removed.items)):
            await deletions.forget_folder(session, name)
    return removed


def _remove_rest(path: Path) -> bool:
    """Remove what a killed process left of a folder that it had begun to remove; return False if another holds it."""
    lock = FolderLock(path, "a deletion")
    try:
        if not lock.try_acquire():  # which removes it
            return False
    except SAEError:
        return False
    lock.release()
    return True


async def make_room(
    sessions: Sessions, artifacts: Artifacts, caches: Sequence[Path], size: int, limit_gb: float | None
) -> Removed:
    """Evict the activation caches that were used least recently, until `caches` of `size` bytes fit the limit.

    Caches that runs under way use stay, so the limit may be exceeded while they run. An object store keeps them all.

    Raises:
        Unprocessable: they are larger than the limit by themselves.
    """
    if limit_gb is None or await asyncio.to_thread(lambda: sum(map(size_of, caches))) >= size:  # all of them are there
        return Removed((), ())
    limit = int(limit_gb * 1e9)
    if size > limit:
        raise Unprocessable(
            f"The activations take {size / 1e9:,.2f} GB, and SEESAE_CACHE_LIMIT allows {limit_gb:,g} GB. Raise the "
            "limit, take fewer `tokens`, or train with `stream`."
        )
    needs = await read_needs(sessions)
    parent = artifacts.activations_root
    others = [path for path in parent.iterdir() if path not in caches] if parent.is_dir() else []
    items = sorted((assess(path, needs) for path in others), key=lambda item: last_used(item.path))
    excess = sum(item.size for item in items) + size - limit
    removed: list[Item] = []
    skipped: list[tuple[Item, str]] = []
    for item in items:
        if excess <= 0:
            break
        if not item.needed:
            one = await remove(sessions, [item], holder="the limit of activation caches")
            excess -= one.size
            removed += one.items
            skipped += one.skipped
    return Removed(tuple(removed), tuple(skipped))


def touch(cache: Path) -> None:
    """Record that an activation cache is used now."""
    with suppress(OSError):  # it can be read without being written to
        (cache / USED).touch()


def last_used(cache: Path) -> float:
    """Return when an activation cache was used last, in seconds since the epoch; now for one that has gone."""
    for path in (cache / USED, cache):
        with suppress(OSError):
            return path.stat().st_mtime
    return time.time()
