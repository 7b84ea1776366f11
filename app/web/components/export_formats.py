"""Lists as files, written row by row: CSV, a JSON array, JSON lines."""

import csv
import io
import json
from collections.abc import AsyncIterator, Collection, Sequence
from typing import Any, Literal

from pydantic import BaseModel

Format = Literal["csv", "json", "jsonl"]
MEDIA_TYPES: dict[Format, str] = {
    "csv": "text/csv; charset=utf-8",
    "json": "application/json",
    "jsonl": "application/jsonl",
}

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


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
    text = io.StringIO()
    writer = csv.writer(text)
    if header and values:
        writer.writerow(values[0])
    writer.writerows([_cell(value) for value in row.values()] for row in values)
    return text.getvalue()


def _cell(value: Any) -> Any:
    """Return a value as one cell: lists as their texts, formulas of a spreadsheet as quoted text."""
    if isinstance(value, list):
        value = "; ".join(item["text"] if isinstance(item, dict) else item for item in value)
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value
