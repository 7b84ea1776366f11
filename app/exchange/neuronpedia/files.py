"""Find and read the files of an export. Only SAEDashboard's batches are held in memory, one at a time."""

import gzip
import re
import zlib
from codecs import BOM_UTF8
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal, TypeVar

from pydantic import ValidationError

from app.errors import NotFound, Unprocessable
from app.exchange.neuronpedia.records import Batch, Record
from sae_core.files import expand_home, sha256_file, sha256_json

R = TypeVar("R", bound=Record)

FORMAT = "neuronpedia"
"""The format's name, for SAEDashboard's files and Neuronpedia's alike."""

Kind = Literal["features", "activations", "explanations"]
KINDS: tuple[Kind, ...] = ("features", "activations", "explanations")

_BATCH = re.compile(r"batch-\d+\.json")
_LINES = re.compile(r".*\.jsonl(\.gz)?")
_ABOUT = ("model", "release", "source", "sourceset")
_SKIPPED = "skipped_indexes.json"

_MOST_BATCH = 2**30
_MOST_LINE = 2**26
"""Bytes of a batch and of a line; a hundred times what the two packages write."""


@dataclass(frozen=True, slots=True)
class Export:
    """Files of one export, in reading order."""

    root: Path
    batches: list[Path] = field(default_factory=list)
    """SAEDashboard's `batch-N.json`."""
    lines: list[tuple[Kind, Path]] = field(default_factory=list)
    """Neuronpedia's `features/batch-N.jsonl.gz` and so on."""
    about: dict[str, Path] = field(default_factory=dict)
    """Those of `model`, `release`, `source`, `sourceset` and `skipped_indexes` that exist."""

    @property
    def paths(self) -> list[Path]:
        """All files."""
        return [*self.batches, *(path for _, path in self.lines), *self.about.values()]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(path.stat().st_size for path in self.paths)

    def named(self, path: Path) -> str:
        """Return the name of a file for messages."""
        return str(path.relative_to(self.root)) if path != self.root else path.name

    def sha256(self) -> str:
        """Return the hash of all files and their names within the export."""
        return sha256_json({self.named(path): sha256_file(path) for path in self.paths})


def is_export(source: str) -> bool:
    """True if the names of the files at this path are those of an export."""
    path = _existing(source)
    if path is None:
        return False
    if path.is_file():
        return bool(_BATCH.fullmatch(path.name) or _LINES.fullmatch(path.name))
    return path.is_dir() and bool(_in_folder(path).paths or _sources(path))


def _existing(source: str) -> Path | None:
    """Return the path, or None where there is none, or can be none: too long a name, or of a user that is not here."""
    try:
        path = expand_home(source)
        return path if path.exists() else None
    except (OSError, RuntimeError, ValueError):
        return None


def find(source: str) -> Export:
    """Find the export at this path.

    Raises:
        NotFound: the path does not exist.
        Unprocessable: there is no export, or more than one.
    """
    path = _existing(source)
    if path is None:
        raise NotFound(f"There is no {source[:80]}.")
    if path.is_file():
        if _LINES.fullmatch(path.name):
            kind = path.parent.name if path.parent.name in KINDS else "features"
            return Export(path, lines=[(_kind(kind), path)])
        return Export(path, batches=[path])
    export = _in_folder(path)
    if export.batches or export.lines:
        return export
    sources = _sources(path)
    if len(sources) == 1:
        return _in_folder(sources[0])
    if sources:
        names = ", ".join(folder.name for folder in sources[:5]) + (", …" if len(sources) > 5 else "")
        raise Unprocessable(f"{path.name} holds {len(sources)} exports ({names}): import them one at a time.")
    raise Unprocessable(
        f"{path.name} holds no export: there is no batch-0.json in it, and no features/batch-0.jsonl.gz."
    )


def _in_folder(path: Path) -> Export:
    export = Export(path)
    export.batches.extend(_ordered(file for file in path.iterdir() if _BATCH.fullmatch(file.name)))
    for kind in KINDS:
        if (path / kind).is_dir():
            found = _ordered(file for file in (path / kind).iterdir() if _LINES.fullmatch(file.name))
            export.lines.extend((kind, file) for file in found)
    if export.batches and export.lines:
        raise Unprocessable(f"{path.name} holds both batch-N.json and {export.lines[0][0]}/: keep one of the two.")
    if export.batches or export.lines:
        about = {name: path / f"{name}.jsonl" for name in _ABOUT} | {"skipped_indexes": path / _SKIPPED}
        export.about.update({name: file for name, file in about.items() if file.is_file()})
    return export


def _sources(path: Path) -> list[Path]:
    """Return the exports inside a folder, such as a folder of all SAEs of a model."""
    return [folder for folder in sorted(path.iterdir()) if folder.is_dir() and _in_folder(folder).paths]


def _ordered(paths: Iterator[Path]) -> list[Path]:
    """Sort by the numbers in the names."""
    return sorted(paths, key=lambda path: ([int(number) for number in re.findall(r"\d+", path.name)], path.name))


def _kind(name: str) -> Kind:
    return next(kind for kind in KINDS if kind == name)


def read_batch(export: Export, path: Path) -> Batch:
    """Read one of SAEDashboard's batches.

    Raises:
        Unprocessable: it cannot be read.
    """
    if path.stat().st_size > _MOST_BATCH:
        raise Unprocessable(f"{export.named(path)} is larger than a batch can be ({_MOST_BATCH // 2**20:,} MiB).")
    return parsed(Batch, path.read_bytes().removeprefix(BOM_UTF8), export.named(path))


def read_lines(export: Export, path: Path, kind: type[R]) -> Iterator[tuple[R, str, int]]:
    """Yield the records of a file of lines, each with its name for messages and the bytes read so far.

    Raises:
        Unprocessable: one of them cannot be read.
    """
    number = 0
    try:
        with path.open("rb") as raw, _unpacked(path, raw) as file:
            while line := file.readline(_MOST_LINE):
                number += 1
                if len(line) == _MOST_LINE:
                    raise Unprocessable(f"{export.named(path)}, line {number} is longer than a record can be.")
                if number == 1:
                    line = line.removeprefix(BOM_UTF8)
                if line.strip():
                    where = f"{export.named(path)}, line {number}"
                    yield parsed(kind, line, where), where, raw.tell()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise Unprocessable(f"{export.named(path)} is damaged after line {number}: {error}.") from error


def _unpacked(path: Path, raw: IO[bytes]) -> IO[bytes]:
    return gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw  # type: ignore[return-value]


def parsed(kind: type[R], text: bytes, where: str) -> R:
    """Parse a record of this kind.

    Raises:
        Unprocessable: the text is not valid JSON, or not such a record; the message has one line.
    """
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise Unprocessable(f"{where}: {f'{place}: ' if place else ''}{message}.") from None
