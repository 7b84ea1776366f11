"""Locks of folders, between real processes that are killed."""

import errno
import fcntl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sae_core.errors import ArtifactError
from sae_core.files import unshared_name
from sae_core.locks import FolderLock, folder_lock

HOLD = """
import sys
from pathlib import Path
from sae_core.locks import folder_lock
with folder_lock(Path(sys.argv[1]), "run 12"):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holding(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the folder's lock."""
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


class StopWaiting(Exception):
    pass


def stop_waiting(holder: str) -> None:
    raise StopWaiting(holder)


def test_who_waits_is_told_for_whom_and_can_stop(tmp_path: Path) -> None:
    with holding(tmp_path / "key"):
        with pytest.raises(StopWaiting, match="run 12"), folder_lock(tmp_path / "key", "run 13", stop_waiting):
            pass
        with folder_lock(tmp_path / "other", "run 13", stop_waiting):
            pass


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    told: list[str] = []
    with holding(tmp_path / "key") as process:

        def kill(holder: str) -> None:
            told.append(holder)
            process.kill()

        with folder_lock(tmp_path / "key", "run 13", kill):
            pass
    assert set(told) == {"run 12"}


def test_taking_the_lock_removes_what_killed_processes_left_of_this_folder(tmp_path: Path) -> None:
    folder, longer = tmp_path / "sae", tmp_path / "sae.2"
    files = [unshared_name(folder / "shard-1", "tmp"), unshared_name(folder / "part-1-of-2" / "step-1", "tmp")]
    others = [unshared_name(longer, "partial"), unshared_name(longer / "shard-1", "tmp"), folder / "shard-0"]
    for path in (unshared_name(folder, "partial") / "weights", *files, *others):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    with folder_lock(folder):
        pass
    left = {path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"}
    assert left == set(others)


def test_a_file_system_without_locks_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in (errno.ENOLCK, errno.ENOSYS):

        def refuse(*_: object, number: int = number) -> None:
            raise OSError(number, "No locks available")

        monkeypatch.setattr(fcntl, "flock", refuse)
        with pytest.raises(ArtifactError, match=r"cannot be locked \(No locks available\).*turn its locks on"):
            FolderLock(tmp_path / "key").acquire()
