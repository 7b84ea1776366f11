"""Export the features of an SAE: read in one transaction, written to a temporary folder, moved when complete."""

import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.errors import Conflict, Unprocessable, UserError
from app.queries.examples import ExampleView, get_examples
from app.queries.features import FeatureDetail, feature_numbers, get_feature
from app.queries.saes import IndexInfo, SaeDetail
from app.services.saes import find_sae

Progress = Callable[[int, int], None]
"""Called with the number of written features and the total."""

_RANGE = re.compile(r" *(?P<first>[0-9]{1,9}) *(- *(?P<last>[0-9]{1,9}) *)?")


@dataclass(frozen=True, slots=True)
class Selection:
    """Ranges of feature numbers, ends included, in order."""

    ranges: tuple[tuple[int, int], ...]

    @classmethod
    def parse(cls, text: str) -> "Selection":
        """Parse a selection such as `0-99,250`.

        Raises:
            Unprocessable: it is no list of numbers and ranges.
        """
        ranges = []
        for part in text.split(","):
            found = _RANGE.fullmatch(part)
            if found is None:
                raise Unprocessable(f"“{part.strip()[:40]}” is no number of a feature and no range: write 0-99,250.")
            ranges.append((int(found["first"]), int(found["last"] or found["first"])))
        backwards = next((each for each in ranges if each[0] > each[1]), None)
        if backwards is not None:
            raise Unprocessable(f"The range {backwards[0]}-{backwards[1]} runs backwards.")
        return cls(tuple(sorted(ranges)))

    def __contains__(self, number: int) -> bool:
        return any(first <= number <= last for first, last in self.ranges)

    def __str__(self) -> str:
        return ",".join(f"{first}-{last}" if last > first else str(first) for first, last in self.ranges)


@dataclass(frozen=True, slots=True)
class Source:
    """An SAE to export, with the numbers of its features, in order."""

    session: AsyncSession
    sae: SaeDetail
    index: IndexInfo
    numbers: list[int]

    async def features(self, progress: Progress) -> AsyncIterator[FeatureDetail]:
        """Yield the features, in order, without drafts of labels."""
        for done, number in enumerate(self.numbers):
            if done % 16 == 0:
                progress(done, len(self.numbers))
            detail = await get_feature(self.session, self.sae, number)
            assert detail is not None
            yield replace(detail, labels=tuple(label for label in detail.labels if label.status == "submitted"))
        progress(len(self.numbers), len(self.numbers))

    async def examples(self, feature: int) -> list[ExampleView]:
        """Return the examples of a feature, by band and rank, with their documents."""
        return await get_examples(self.session, self.sae, feature)


Write = Callable[[Source, Path, Progress], Awaitable[None]]


async def export_features(
    sessions: async_sessionmaker[AsyncSession],
    slug: str,
    write: Write,
    folder: Path,
    *,
    selection: Selection | None = None,
    progress: Progress,
) -> dict[str, Any]:
    """Fill `folder`, an absolute path, with the features of an SAE by `write`.

    Raises:
        NotFound: there is no such SAE.
        Conflict: the folder holds something, or the SAE has no index.
        Unprocessable: none of the selected features is in the index.
        UserError: the folder cannot be written.
    """
    async with _source(sessions, slug, selection) as source:
        with new_folder(folder) as unfinished:
            await write(source, unfinished, progress)
    return {"sae": slug, "features": len(source.numbers), "folder": str(folder), **size(folder)}


def size(folder: Path) -> dict[str, int]:
    """Return the number of files in a folder, and their bytes."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {"files": len(files), "bytes": sum(path.stat().st_size for path in files)}


@asynccontextmanager
async def _source(
    sessions: async_sessionmaker[AsyncSession], slug: str, selection: Selection | None
) -> AsyncIterator[Source]:
    """Return the SAE; reading it keeps its index from being dropped until the transaction ends."""
    async with sessions() as session:
        sae = await find_sae(session, slug)
        if sae.index is None:
            raise Conflict(f"{slug} has no index, so nothing is known of its features yet: seesae index {slug}.")
        numbers = [each for each in await feature_numbers(session, sae) if selection is None or each in selection]
        if not numbers:
            raise Unprocessable(
                f"The index of {slug} has none of the features {selection}: it has {sae.indexed:,}, numbered 0 to "
                f"{sae.d_sae - 1}."
            )
        yield Source(session, sae, sae.index, numbers)


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Yield a folder to fill, which is then moved to `folder`; after a failure `folder` is as it was.

    Raises:
        Conflict: there is something already.
        UserError: the folder cannot be written.
    """
    try:
        with _unfinished(folder) as unfinished:
            yield unfinished
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror or error}. Choose another folder.") from error


@contextmanager
def _unfinished(folder: Path) -> Iterator[Path]:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Conflict(f"{folder} is there already and holds something. Give a new or an empty folder.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".seesae-export-") as name:
        written = Path(name) / "export"
        written.mkdir()
        yield written
        if folder.exists():
            folder.rmdir()
        shutil.move(written, folder)
