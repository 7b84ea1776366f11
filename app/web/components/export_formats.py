"""Lists as files, written row by row: CSV, a JSON array, JSON lines."""

import json
from collections.abc import AsyncIterator, Collection, Sequence
from typing import Any, Literal

from pydantic import BaseModel

from app.services.csv_text import csv_text

Format = Literal["csv", "json", "jsonl"]
MEDIA_TYPES: dict[Format, str] = {
    "csv": "text/csv; charset=utf-8",
    "json": "application/json",
    "jsonl": "application/jsonl",
}


async def serialise(
    format: Format, batches: AsyncIterator[Sequence[BaseModel]], *, not_in_csv: Collection[str] = ()
) -> AsyncIterator[str]:
    """Yield a file of this format as text, one piece per batch of rows. CSV leaves out the fields `not_in_csv`."""
    started = False
    async for rows in batches:
        values = [row.model_dump(mode="json", exclude=set(not_in_csv) if format == "csv" else None) for row in rows]
        if format == "csv":
            yield _csv(values, header=not started)
        else:
            lines = [json.dumps(value, ensure_ascii=False, separators=(",", ":")) for value in values]
            if format == "jsonl":
                yield "".join(f"{line}\n" for line in lines)
            elif lines:
                yield (",\n" if started else "[\n") + ",\n".join(lines)
        started = started or bool(values)
    if format == "json":
        yield "\n]\n" if started else "[]\n"


def _csv(values: Sequence[dict[str, Any]], *, header: bool) -> str:
    names = [list(values[0])] if header and values else []
    return csv_text([*names, *([_cell(value) for value in row.values()] for row in values)])


def _cell(value: Any) -> Any:
    """Return a value as one cell: lists as their texts."""
    if not isinstance(value, list):
        return value
    return "; ".join(item["text"] if isinstance(item, dict) else item for item in value)
