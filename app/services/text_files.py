"""Texts from a file that somebody brings: lines, JSON lines, or CSV with a column "text"."""

import csv
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from app.errors import TooLarge, Unprocessable, UserError

MAX_FILE_TEXT = 100_000
"""Characters of one text of a file that is scanned."""
MAX_FILE_BYTES = 200_000_000
MAX_FILE_TEXTS = 1_000_000
_KINDS = ("txt", "jsonl", "csv")


def check_text_file(path: Path) -> None:
    """Refuse a file that `read_text_file` cannot read, as far as that can be said without reading it.

    Raises:
        UserError: it is of another kind, too large, or no file.
    """
    if path.suffix.lower().lstrip(".") not in _KINDS:
        raise Unprocessable(f"{path.name} is of an unknown kind: bring a file that ends with .{', .'.join(_KINDS)}.")
    try:
        size, is_file = path.stat().st_size, path.is_file()
    except OSError as error:
        raise UserError(f"{path.name} cannot be read: {error.strerror}.") from None
    if not is_file:
        raise Unprocessable(f"{path.name} is no file: give one with texts.")
    if size > MAX_FILE_BYTES:
        raise TooLarge(f"{path.name} is larger than {MAX_FILE_BYTES / 1e6:,.0f} MB. Cut it into several files.")


def read_text_file(path: Path) -> list[str]:
    """Return the texts of a file, as `texts_of` does, with U+FFFD for what is no character.

    Raises:
        UserError: it cannot be read, has no text or too many, or a text is too long.
    """
    check_text_file(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as lines:
            found = texts_of(lines, path.name, MAX_FILE_TEXTS)
    except UnicodeDecodeError as error:
        raise UserError(f"{path.name} is not UTF-8 text: {error.reason}. Convert it first.") from None
    except OSError as error:
        raise UserError(f"{path.name} cannot be read: {error.strerror}.") from error
    if not any(text.strip() for text in found):
        raise UserError(f"{path.name} has no text. Give a file with at least one.")
    for number, text in enumerate(found):
        if len(text) > MAX_FILE_TEXT:
            raise Unprocessable(
                f"Text {number:,} of {path.name} has {len(text):,} characters; a text has at most {MAX_FILE_TEXT:,}."
            )
    return [text.encode("utf-8", "replace").decode() for text in found]


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
