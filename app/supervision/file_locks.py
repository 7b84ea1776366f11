"""Locks on files, which the kernel frees when their process ends; with a clear error where there are none.

A file is opened for writing even to be only locked: network file systems refuse an exclusive lock on anything else.
"""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.errors import UserError

_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF)


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
def exclusive_lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file.

    Raises:
        UserError: the file cannot be made, or its file system has no locks.
    """
    descriptor = open_lock_file(path)
    try:
        lock_file(descriptor, path, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
