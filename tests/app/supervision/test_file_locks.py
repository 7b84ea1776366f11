"""Locks of file systems that have none, as NFS without its lock daemon."""

import errno
import fcntl
import os
import threading
from pathlib import Path

import pytest

from app.errors import UserError
from app.supervision.embedded_postgres import embedded_postgres
from app.supervision.file_locks import exclusive_lock
from app.supervision.instance_lock import InstanceLock

REAL = fcntl.flock


def as_nfs(descriptor: int, operation: int) -> None:
    """Lock as NFS does: by a lock on a range of bytes, for which an exclusive lock needs a writable file."""
    if operation & fcntl.LOCK_EX and fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    REAL(descriptor, operation)


def test_no_lock_needs_more_than_a_network_file_system_has(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", as_nfs)
    InstanceLock.claim(home).release()
    with embedded_postgres(home):
        pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
@pytest.mark.parametrize("use", [InstanceLock.claim, lambda home: embedded_postgres(home).__enter__()])
def test_a_file_system_without_locks_is_named_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, use: object
) -> None:
    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(UserError, match=r"cannot be locked .*SEESAE_HOME to a folder on a local disk") as caught:
        use(tmp_path)  # type: ignore[operator]
    assert "\n" not in str(caught.value)


def test_a_lock_is_exclusive_and_freed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with exclusive_lock(path, threading.Event()), path.open("w") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with exclusive_lock(path, threading.Event()):
        pass


def test_the_wait_for_a_lock_ends_when_told_so(tmp_path: Path) -> None:
    path, give_up = tmp_path / "lock", threading.Event()
    give_up.set()
    with exclusive_lock(path, threading.Event()):
        for arguments in ((give_up,), (threading.Event(), 0.0)):
            with pytest.raises(UserError, match="Another process holds"), exclusive_lock(path, *arguments):
                pass
