"""Artifacts on disk: written whole or not at all, and named by what is in them."""

import errno
import hashlib
import json
import os
import secrets
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from sae_core.errors import ArtifactError


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_code() -> str:
    """Hex sha256 of the source of `sae_core`, which tells what made an artifact better than a version does."""
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root).as_posix()} {sha256_file(path)}\n".encode())
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """Hex sha256 of a JSON value, independent of key order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@contextmanager
def explain_full_disk(path: Path) -> Iterator[None]:
    """Turn "no space left" into an `ArtifactError` that names the folder."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ArtifactError(
                f"The disk is full at {path}. Free some space, then run the same command again."
            ) from error
        raise


def unshared_name(path: Path, ending: str) -> Path:
    """Return a hidden neighbour of `path` that no other process writes: not in another container, nor on another host.

    `sae_core.locks` removes those that end in `tmp`, inside a folder, and in `partial`, beside it.
    """
    return path.with_name(f".{path.name}~{socket.gethostname()[:32]}-{os.getpid()}-{secrets.token_hex(4)}.{ending}")


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a temporary neighbour of `path`, then rename it into place.

    A reader, or a run resumed after a kill, sees the old file or the new one, never half of one.

    Raises:
        ArtifactError: the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = unshared_name(path, "tmp")
    try:
        with explain_full_disk(path.parent):
            with temporary.open("xb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON, atomically."""
    content = (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()
    write_atomically(path, lambda file: file.write(content))


def make_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a folder beside `folder` and rename it into place: it is there whole, or not at all.

    A folder that is there is replaced. Where several processes may make it, hold its `sae_core.locks.folder_lock`.
    """
    unfinished = unshared_name(folder, "partial")
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        write(unfinished)
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def require_free_space(folder: Path, needed_bytes: int, what: str) -> None:
    """Refuse work that cannot fit on the disk before it starts.

    Raises:
        ArtifactError: fewer than `needed_bytes` are free; the message has both sizes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise ArtifactError(
            f"{what} needs {needed_bytes / 1e6:,.0f} MB but {folder} has {free / 1e6:,.0f} MB free. "
            "Free some space, or work in a folder on another disk."
        )


def expand_home(source: str | Path) -> Path:
    """Return a path with its `~` replaced; the `~name` of no user stays, as in a shell, and is not found."""
    path = Path(source)
    with suppress(RuntimeError):
        return path.expanduser()
    return path


def exists_partly(source: str) -> bool:
    """True for a path whose first folder exists, or that begins as no address on the hub does."""
    path = expand_home(source)
    return path.is_absolute() or source.startswith((".", "~")) or (len(path.parts) > 1 and Path(path.parts[0]).is_dir())


def first_missing(path: Path) -> tuple[Path, str]:
    """Return the deepest folder of a path that exists, and the name that it lacks."""
    path = path.absolute()
    parent = next(folder for folder in path.parents if folder.is_dir())
    return parent, path.relative_to(parent).parts[0]
