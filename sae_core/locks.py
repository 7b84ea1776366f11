"""Locks of artifact folders: one process at a time makes a folder's files, or cleans up what a killed one left."""

import glob
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from sae_core.errors import ArtifactError
from sae_core.files import explain_full_disk

_POLL_SECONDS = 0.2


def wait_silently(holder: str) -> None:
    """Tell nobody that a lock is awaited."""


class FolderLock:
    """The lock of a folder, held from `acquire` to `release`; the kernel releases that of a process that dies.

    The lock is a file in `locks`, beside the folder's parent, where whoever lists folders does not meet it. It stays,
    because two processes could hold the locks of two files of one name.
    """

    def __init__(self, folder: Path, holder: str = "") -> None:
        """Prepare the lock of `folder`, which need not exist; `holder` is what those who wait for it are told."""
        self._folder = folder
        self._holder = holder
        self._path = folder.parent.parent / "locks" / f"{folder.parent.name}-{folder.name}.lock"
        # Released by another thread than it is acquired by. A soft lock, a file alone, would outlive a kill.
        self._lock = FileLock(self._path, thread_local=False, fallback_to_soft=False)

    def acquire(self, waiting: Callable[[str], None] = wait_silently) -> None:
        """Wait for the lock, then remove what killed processes left half written.

        `waiting` is called several times per second with the other's `holder`, empty if it is unknown. An error that it
        raises ends the wait.

        Raises:
            ArtifactError: the file system has no locks, or does not let this user take one.
        """
        while not self.try_acquire():
            waiting(self.held_by())
            time.sleep(_POLL_SECONDS)

    def try_acquire(self) -> bool:
        """Take the lock if it is free, as `acquire` does; return False, at once, if it is not.

        Raises:
            ArtifactError: as for `acquire`.
        """
        if not self._try():
            return False
        try:
            with self._explain_failure():
                self._path.write_text(self._holder, encoding="utf-8")
                self._remove_leftovers()
        except BaseException:
            self.release()
            raise
        return True

    def release(self) -> None:
        """Let others make the folder."""
        self._lock.release()

    def _try(self) -> bool:
        with self._explain_failure():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._lock.acquire(blocking=False)
            except Timeout:
                return False
        return True

    def held_by(self) -> str:
        """Return the `holder` of whoever has the lock, or had it last; empty if it is unknown."""
        with suppress(OSError):
            return self._path.read_text(encoding="utf-8")
        return ""

    def _remove_leftovers(self) -> None:
        for partial in self._folder.parent.glob(f".{glob.escape(self._folder.name)}~*.partial"):
            shutil.rmtree(partial, ignore_errors=True)
        for temporary in self._folder.rglob(".*.tmp"):
            temporary.unlink(missing_ok=True)

    @contextmanager
    def _explain_failure(self) -> Iterator[None]:
        try:
            with explain_full_disk(self._folder.parent):
                yield
        except (OSError, NotImplementedError) as error:
            raise ArtifactError(
                f"{self._folder} cannot be locked ({getattr(error, 'strerror', None) or error}). Check who may write "
                "there. On a network disk, turn its locks on, or keep these files on a disk that has them."
            ) from error


@contextmanager
def folder_lock(folder: Path, holder: str = "", waiting: Callable[[str], None] = wait_silently) -> Iterator[None]:
    """Hold the lock of a folder; raises as `FolderLock.acquire`."""
    lock = FolderLock(folder, holder)
    lock.acquire(waiting)
    try:
        yield
    finally:
        lock.release()
