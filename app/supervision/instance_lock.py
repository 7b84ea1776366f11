"""Lock that allows one supervisor per home folder, and tells a second one where the first is.

The supervisor holds an exclusive lock on a file in the home folder and lets its children inherit it. The kernel frees
the lock when the last of these processes has ended, for any reason: a supervisor that gets the lock can be sure that no
process of an earlier one is left. The file names the holder's process and the site's URL.
"""

import fcntl
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from app.errors import Conflict
from app.supervision.file_locks import lock_file, open_lock_file

_PATIENCE = 15.0
"""Seconds to wait for the children of a killed supervisor; `parent_watchdog` ends them."""


@dataclass(frozen=True, slots=True)
class LockInfo:
    """Holder of a home folder's lock."""

    pid: int
    url: str | None
    """URL of its site; None until the site is up."""


class AlreadyRunning(Conflict):
    """Another supervisor holds this home folder."""

    def __init__(self, home: Path, holder: LockInfo) -> None:
        where = f"at {holder.url}" if holder.url else "and starting up"
        super().__init__(
            f"SeeSAE is already running {where} (process {holder.pid}). "
            f"Stop it first, or set SEESAE_HOME to use another folder than {home}."
        )
        self.holder = holder


class InstanceLock:
    """Lock on a home folder, held from `claim` until `release`."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.descriptor = descriptor
        """The children must inherit it."""

    @classmethod
    def claim(cls, home: Path) -> "InstanceLock":
        """Take the lock, waiting for the last children of a supervisor that was killed.

        Raises:
            AlreadyRunning: a living supervisor holds it.
            UserError: the home folder cannot be written, or its file system has no locks.
        """
        path = home / "supervisor.lock"
        descriptor = open_lock_file(path)
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                lock_file(descriptor, path, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                holder = read_lock_info(home)
                if (holder is not None and psutil.pid_exists(holder.pid)) or time.monotonic() > deadline:
                    os.close(descriptor)
                    raise AlreadyRunning(home, holder or LockInfo(pid=0, url=None)) from None
                time.sleep(0.1)
        lock = cls(path, descriptor)
        lock.announce(None)
        return lock

    def announce(self, url: str | None) -> None:
        """Write this process and the site's URL into the file."""
        text = json.dumps(asdict(LockInfo(os.getpid(), url))).encode()
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, text, 0)

    def release(self) -> None:
        """Release the lock. The children hold it too, so they must have ended."""
        os.ftruncate(self.descriptor, 0)
        os.close(self.descriptor)


def read_lock_info(home: Path) -> LockInfo | None:
    """Return the current holder, or the one that was killed last; None if there is none."""
    try:
        return LockInfo(**json.loads((home / "supervisor.lock").read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
        return None
