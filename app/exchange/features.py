"""Export the features of an SAE: read in one transaction, written to a temporary folder, moved when complete."""

import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.errors import Conflict, Unprocessable, UserError
from app.exchange.selection import Selection
from app.queries.examples import ExampleView, get_examples
from app.queries.features import FeatureDetail, feature_numbers, get_feature
from app.queries.saes import IndexInfo, SaeDetail
from app.services.saes import find_sae

Progress = Callable[[int, int], None]
"""Called with the number of written features and the total."""


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


async def find_indexed(session: AsyncSession, slug: str) -> SaeDetail:
    """Return an SAE that has an index.

    Raises:
        NotFound: there is no such SAE.
        Conflict: it has no index.
    """
    sae = await find_sae(session, slug)
    if sae.index is None:
        raise Conflict(f"{slug} has no index, so nothing is known of its features yet: seesae index {slug}.")
    return sae


@asynccontextmanager
async def _source(
    sessions: async_sessionmaker[AsyncSession], slug: str, selection: Selection | None
) -> AsyncIterator[Source]:
    """Return the SAE; reading it keeps its index from being dropped until the transaction ends."""
    async with sessions() as session:
        sae = await find_indexed(session, slug)
        assert sae.index is not None
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
    check_new(folder)
    try:
        with _unfinished(folder) as unfinished:
            yield unfinished
    except OSError as error:
        raise _unwritable(folder, error) from error


def check_new(folder: Path) -> None:
    """Refuse a folder that holds something; raises as `new_folder`."""
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise Conflict(f"{folder} is there already and holds something. Give a new or an empty folder.")
    except OSError as error:
        raise _unwritable(folder, error) from error


def _unwritable(folder: Path, error: OSError) -> UserError:
    return UserError(f"{folder} cannot be written: {error.strerror or error}. Choose another folder.")


@contextmanager
def _unfinished(folder: Path) -> Iterator[Path]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".seesae-export-") as name:
        written = Path(name) / "export"
        written.mkdir()
        yield written
        if folder.exists():
            folder.rmdir()
        shutil.move(written, folder)
