"""An object store that machines share their artifacts by, such as a bucket of S3; fsspec speaks with it.

    a machine's folder `indexes/1f3a`                      the store's `indexes/1f3a/…`
    pull ◄── what the store has, and this machine has not
    push ──► what this machine made, and the store has not

A store replaces a file as a whole, so a file is there whole or not at all. Most never change, because their folder is
named by what is in them; those that do, such as the weights of a name that was given again, often keep their size. So
each folder records of which version of the store's its files are (`.store.json`, by the store's own hashes). What only
one side changed since then goes to the other, as in a merge: neither is taken for the newer by its time.
"""

import errno
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from filelock import FileLock

from app.errors import Unavailable, UserError
from sae_core.files import explain_full_disk, unshared_name, write_json

_RECORD = ".store.json"
_BATCH = 16
"""Files that are transferred at once."""
_TRIES = 5
"""Looks at a folder that changes while it is read."""
_LASTING = ("credential", "token", "profile", "config", "validation", "region")
"""Parts of the names of botocore's errors that do not pass by themselves."""

Check = Callable[[], None]
"""Called between files; raises where the work has to stop."""
_Record = dict[str, list[Any]]
"""Of each file by its name in the folder: the store's version, and size and time of the file here."""


class StoreAway(Unavailable, ConnectionError):
    """The store does not answer; a later attempt may succeed."""


def go_on() -> None:
    """Never stop."""


@dataclass(frozen=True, slots=True)
class ObjectStore:
    """The artifacts that machines have in common, and their mirror in the folder `root` of this one.

    Every method may wait for the network: call it in a thread.

    They raise `StoreAway` where the store does not answer, and `UserError` where it refuses, or its package is missing.
    """

    address: str
    root: Path

    def pull(self, folder: Path, check: Check = go_on) -> None:
        """Give a folder what the store has of it. Work that was never pushed stays.

        Where the store has nothing of it, all of the folder is such work.
        """
        if not (there := self._versions(folder)) and not folder.is_dir():
            return
        with self._recorded(folder) as record:
            if not there:
                record.clear()
                return
            for _ in range(_TRIES):
                for name in record.keys() - there.keys():  # another machine removed it
                    (folder / name).unlink(missing_ok=True)
                    del record[name]
                stale = [
                    name
                    for name, version in sorted(there.items())
                    if record.get(name, [None])[0] != version or not (folder / name).is_file()
                ]
                if not stale:
                    return
                self._download(folder, {name: there[name] for name in stale}, record, check)
                there = self._versions(folder)  # another machine may have written meanwhile
            raise StoreAway(f"{self._at(folder)} changes while it is read. Try again when that has ended.")

    def push(self, folder: Path, check: Check = go_on) -> None:
        """Give the store what a folder has. Files that others pushed since it was pulled stay there.

        Files that were pulled and are not here any more are removed from the store. If the folder was never pulled,
        or was removed, that is so of all that the store has of it. Hold the folder's lock, of all machines.
        """
        if not folder.is_dir():
            self.remove(folder)
            return
        was_pulled = (folder / _RECORD).exists()
        with self._recorded(folder) as record:
            there = self._versions(folder)
            here = _files(folder)
            removed = (record.keys() & there.keys() if was_pulled else there.keys()) - here.keys()
            self._remove([self._at(folder / name) for name in removed])
            for name in record.keys() - here.keys():
                del record[name]
            changed = {name: stat for name, stat in here.items() if record.get(name) != [there.get(name), *stat]}
            # Like in a folder, what vouches for other files comes last: manifests do, which are JSON.
            first = [name for name in changed if not name.endswith(".json")]
            last = sorted(changed.keys() - set(first), key=lambda name: changed[name][1])
            for names in (*_batches(first), *([name] for name in last)):
                check()
                self._ask("put", [str(folder / name) for name in names], [self._at(folder / name) for name in names])
            if changed:
                there = self._versions(folder)
                record |= {name: [there[name], *stat] for name, stat in changed.items() if name in there}

    def push_files(self, paths: Sequence[Path]) -> None:
        """Give the store some files that were just made here, each in a product's folder."""
        for path in paths:
            folder = self.product(path)
            with self._recorded(folder) as record:
                stat = _stat(path)
                self._ask("put", [str(path)], [self._at(path)])
                record[path.relative_to(folder).as_posix()] = [_version(self._ask("info", self._at(path))), *stat]

    def has(self, paths: Sequence[Path]) -> bool:
        """True if all these files are in the store."""
        return all(self._ask("exists", self._at(path)) for path in paths)

    def names(self, folder: Path) -> set[str]:
        """Return the names of the files that the store has of a folder."""
        return set(self._versions(folder))

    def size(self, folder: Path) -> int:
        """Return the bytes that the store has of a folder."""
        return sum(info["size"] or 0 for info in self._infos(folder).values())

    def products(self) -> dict[str, int]:
        """Return the products that the store has, such as "saes/tiny", with their bytes."""
        sizes: dict[str, int] = {}
        for name, info in self._infos(self.root).items():
            parts = name.split("/")
            if len(parts) > 2:
                product = "/".join(parts[:2])
                sizes[product] = sizes.get(product, 0) + (info["size"] or 0)
        return sizes

    def remove(self, folder: Path) -> None:
        """Remove a folder from the store. Hold its lock, of all machines."""
        self._remove([self._at(folder / name) for name in self._versions(folder)])

    def product(self, path: Path) -> Path:
        """Return the product's folder that a file is in."""
        return self.root.joinpath(*path.relative_to(self.root).parts[:2])

    def check(self) -> None:
        """Write, read and remove a small file, to find now what would go wrong in a run."""
        at = self._at(unshared_name(self.root / "check", "tmp"))
        try:
            self._ask("pipe_file", at, b"seesae")
            self._ask("cat_file", at)
            self._ask("rm_file", at)
        except FileNotFoundError as error:
            raise UserError(f"{self.address} is not there ({_first_line(error)}). Make the bucket first.") from None

    def _download(self, folder: Path, versions: Mapping[str, str], record: _Record, check: Check) -> None:
        """Write each file beside its place and rename it; what vanishes meanwhile is left out."""
        for names in _batches(list(versions)):
            check()
            files = {name: unshared_name(folder / name, "tmp") for name in names}
            try:
                for path in files.values():
                    path.parent.mkdir(parents=True, exist_ok=True)
                with suppress(FileNotFoundError), explain_full_disk(folder):
                    self._ask(
                        "get", [self._at(folder / name) for name in names], [str(path) for path in files.values()]
                    )
                    for name, path in files.items():
                        path.replace(folder / name)
                        record[name] = [versions[name], *_stat(folder / name)]
            finally:
                for path in files.values():
                    path.unlink(missing_ok=True)

    def _remove(self, places: Sequence[str]) -> None:
        for named in (  # a manifest goes before what it vouches for
            [place for place in places if place.endswith(".json")],
            [place for place in places if not place.endswith(".json")],
        ):
            if named:
                with suppress(FileNotFoundError):  # another removed it
                    self._ask("rm", named)

    def _versions(self, folder: Path) -> dict[str, str]:
        return {name: _version(info) for name, info in self._infos(folder).items()}

    def _infos(self, folder: Path) -> dict[str, dict[str, Any]]:
        """Return what the store says of the files in a folder, by their names; not of names that no product's have."""
        at = self._at(folder)
        found = self._ask("find", at, detail=True)
        names = {path: path.removeprefix(f"{at}/") for path in found}
        return {name: found[path] for path, name in names.items() if path != name and _is_plain(name)}

    def _at(self, path: Path) -> str:
        """Return the place of a file or folder in the store."""
        base = self.address.partition("://")[2]
        return str(PurePosixPath(base, path.relative_to(self.root).as_posix()))

    @contextmanager
    def _recorded(self, folder: Path) -> Iterator[_Record]:
        """Yield the record of a folder, which is kept at the end; one process of this machine at a time."""
        locks = self.root / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        with FileLock(locks / f"mirror-{folder.parent.name}-{folder.name}.lock", fallback_to_soft=False):
            path = folder / _RECORD
            try:
                record: _Record = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                record = {}
            before = json.dumps(record)
            done = False
            try:
                yield record
                done = True
            finally:
                # Even an empty record says that a folder was pulled: a new one whose push failed must get none.
                if folder.is_dir() and (json.dumps(record) != before or (done and not path.exists())):
                    write_json(path, record)

    def _ask(self, method: str, *arguments: Any, **options: Any) -> Any:
        """Call a method of fsspec's file system.

        Raises:
            FileNotFoundError: there is no such file, or bucket.
            StoreAway, UserError: as the class says.
        """
        try:
            return getattr(_file_system(self.address), method)(*arguments, **options)
        except (FileNotFoundError, UserError):
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            said = _first_line(error)
            kind = type(error).__name__.lower()
            if isinstance(error, (PermissionError, ValueError)) or any(part in kind for part in _LASTING):
                raise UserError(
                    f"{self.address} refuses this machine ({said}). Check the keys, the address and who may write "
                    "there (docs/deploy.md)."
                ) from error
            raise StoreAway(f"{self.address} does not answer ({said}). Try again when it does.") from error


def _file_system(address: str) -> Any:
    """Return fsspec's file system of an address, the same one each time; it remembers no listing.

    Raises:
        UserError: its package is not installed.
    """
    import fsspec

    try:
        system, _ = fsspec.url_to_fs(address, use_listings_cache=False)
    except (ImportError, ValueError) as error:
        package = "pip install 'seesae[s3]'" if address.startswith("s3") else "the package that fsspec names"
        raise UserError(
            f"SEESAE_ARTIFACTS={address} cannot be used ({_first_line(error)}). Install {package}."
        ) from None
    return system


def _version(info: Mapping[str, Any]) -> str:
    """Return what changes when a file does: the store's hash of it or, where it has none, all that it says."""
    return str(info.get("ETag") or info.get("etag") or sorted((key, str(value)) for key, value in info.items()))


def _is_plain(name: str) -> bool:
    """True for a name that a product's file has. Any other could lead out of the folder, or be our own record."""
    return "\\" not in name and "\0" not in name and not any(part == "" or part[0] == "." for part in name.split("/"))


def _files(folder: Path) -> dict[str, list[int]]:
    """Return size and time of the files in a folder, by their names."""
    paths = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    return {name: _stat(path) for name, path in names.items() if _is_plain(name)}


def _stat(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_size, stat.st_mtime_ns]


def _batches(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), _BATCH):
        yield names[start : start + _BATCH]


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
