"""Texts from a file that somebody brings: lines, JSON lines, or CSV with a column "text"."""

import csv
import json
from collections.abc import Iterable, Iterator

from app.errors import TooLarge, Unprocessable


def texts_of(lines: Iterable[str], name: str, limit: int, kind: str = "") -> list[str]:
    """Return the texts of a file's lines, written as `kind`: txt, jsonl or csv, by default what its name ends with.

    Blank lines are left out.

    Raises:
        Unprocessable: a line is not JSON, or there is no column "text".
        TooLarge: there are more than `limit`.
    """
    kind = kind or name.rpartition(".")[2].lower()
    read = {"jsonl": _of_json_lines, "csv": _of_csv}.get(kind, _of_lines)
    texts: list[str] = []
    for text in read(lines, name):
        if len(texts) == limit:
            raise TooLarge(f"{name} has more than {limit:,} texts. Cut it into several files.")
        texts.append(text)
    return texts


def _of_lines(lines: Iterable[str], _name: str) -> Iterator[str]:
    return (line.rstrip("\r\n") for line in lines if line.strip())


def _of_json_lines(lines: Iterable[str], name: str) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = None
        text = value.get("text") if isinstance(value, dict) else value
        if not isinstance(text, str):
            raise Unprocessable(f"Line {number} of {name} is neither a JSON string nor an object with “text”.")
        yield text


def _of_csv(lines: Iterable[str], name: str) -> Iterator[str]:
    rows = csv.DictReader(lines)
    try:
        if "text" not in (rows.fieldnames or ()):
            raise Unprocessable(f"{name} has no column “text”: name the column with the texts so in its first line.")
        yield from (row["text"] for row in rows if (row["text"] or "").strip())
    except csv.Error as error:
        raise Unprocessable(f"{name} is not valid CSV near line {rows.line_num + 1}: {error}.") from None
