"""Locks on files, which the kernel frees when their process ends; with a clear error where there are none.

A file is opened for writing even to be only locked: network file systems refuse an exclusive lock on anything else.
"""

import errno
import fcntl
import math
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.errors import UserError

_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF)

_POLL_SECONDS = 0.02


def open_lock_file(path: Path) -> int:
    """Return a descriptor of a file to lock, which is created if it is missing.

    Raises:
        UserError: its folder cannot be made or written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise UserError(
            f"Nothing can be kept under {path.parent} ({error.strerror}): set SEESAE_HOME to another folder."
        ) from None


def lock_file(descriptor: int, path: Path, operation: int) -> None:
    """Call `flock`.

    Raises:
        BlockingIOError: another process holds the lock, and `operation` says not to wait.
        UserError: the file system has no locks.
    """
    try:
        fcntl.flock(descriptor, operation)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise UserError(
            f"Files under {path.parent} cannot be locked ({error.strerror}), as on some network file systems: set "
            "SEESAE_HOME to a folder on a local disk. SEESAE_ARTIFACTS may stay where it is."
        ) from error


@contextmanager
def exclusive_lock(path: Path, give_up: threading.Event, patience: float = math.inf) -> Iterator[None]:
    """Hold an exclusive lock on a file, waiting for it `patience` seconds, or until another thread sets `give_up`.

    Raises:
        UserError: the file cannot be made, its file system has no locks, or the wait was in vain.
    """
    descriptor = open_lock_file(path)
    deadline = time.monotonic() + patience
    try:
        while True:
            try:
                lock_file(descriptor, path, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if give_up.wait(_POLL_SECONDS) or time.monotonic() > deadline:
                    raise UserError(f"Another process holds {path}: end it, or try again later.") from None
        yield
    finally:
        os.close(descriptor)
