"""The labels of an SAE: labels.csv for spreadsheets and labels.jsonl for programs, one submitted label per row, and
history.jsonl with everything, which can be imported elsewhere without loss.
"""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.exchange.features import new_folder, size
from app.exchange.selection import Selection
from app.queries.labels import submitted_labels
from app.queries.saes import SaeDetail
from app.queries.sql.visibility import Reader
from app.services.label_history import history_records
from app.services.saes import find_sae
from app.web.components.export_formats import Format, serialise
from app.web.components.label_models import ExportedLabel

LABELS = "labels"
HISTORY = "history.jsonl"
FORMATS: tuple[Format, ...] = ("csv", "jsonl")
_BATCH = 1000


async def export_labels(
    sessions: async_sessionmaker[AsyncSession], slug: str, folder: Path, *, selection: Selection | None = None
) -> dict[str, Any]:
    """Write the labels into `folder`, an absolute path, and return how many there are.

    Raises:
        NotFound: there is no such SAE.
        Conflict: the folder holds something.
        UserError: the folder cannot be written.
    """
    count = 0
    async with sessions() as session:
        sae = await find_sae(session, slug)
        with new_folder(folder) as unfinished:
            for format in FORMATS:
                count = await _write(session, sae, unfinished / f"{LABELS}.{format}", format, selection)
            if selection is None:
                await _write_history(session, sae, unfinished / HISTORY)
    return {"sae": slug, "labels": count, "folder": str(folder), **size(folder)}


async def _write(session: AsyncSession, sae: SaeDetail, path: Path, format: Format, selection: Selection | None) -> int:
    """Write one file, and return the number of its labels."""
    count = 0

    async def batches() -> AsyncIterator[list[ExportedLabel]]:
        nonlocal count
        last = None
        while labels := await submitted_labels(session, sae.id, after=last, limit=_BATCH):
            last = labels[-1]
            chosen = [label for label in labels if selection is None or label.feature in selection]
            count += len(chosen)
            yield [ExportedLabel.in_file(sae.slug, label) for label in chosen]

    with path.open("w", encoding="utf-8", newline="") as file:
        async for text in serialise(format, batches()):
            file.write(text)
    return count


async def _write_history(session: AsyncSession, sae: SaeDetail, path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        async for record in history_records(session, sae, reader=Reader(sees_all=True)):
            file.write(record.model_dump_json() + "\n")
