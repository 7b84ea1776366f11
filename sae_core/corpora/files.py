"""Read the rows of a file, one at a time: only the columns that are asked for, and text exactly as it is written.

Nothing is inferred: a date stays the text that it is, and a column that nobody asked for is not looked at.
"""

import bz2
import csv
import gzip
import io
import lzma
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TextIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from sae_core.corpora.json_values import JsonError, json_lines, json_rows
from sae_core.errors import CorpusError, first_line

Row = Mapping[str, Any]
"""Values by column; a column that a row lacks is absent."""

_OPENERS: dict[str, Callable[[Path], Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": lambda path: io.BufferedReader(pa.input_stream(str(path), compression="zstd")),
}
COMPRESSION = tuple(_OPENERS)

_MOST_NAMED = 20
"""Columns that a message names."""
_MOST_FIELD = 2**28
"""Characters of a field of a .csv file: a quote that is never closed is found out before it fills the memory."""
_BATCH_ROWS = 256
_BUFFER = 1 << 20


def ending(name: str) -> str:
    """Return the ending that tells a file's format, without that of its compression: `a.JSONL.gz` -> `.jsonl`."""
    path = Path(name.lower())
    return (path.with_suffix("") if path.suffix in COMPRESSION else path).suffix


def read_rows(path: Path, name: str, text_column: str, columns: Sequence[str]) -> Iterator[Row]:
    """Yield the rows of a file, with at least those of `columns` that it has.

    Args:
        path: the file.
        name: its name for messages, whose ending tells the format.
        text_column: one of `columns`, which the file must have.
        columns: what is asked for.

    Raises:
        CorpusError: the file cannot be read or has no such column; the message names the file, and the line or row.
    """
    read = _READERS.get(ending(name))
    if read is None:
        raise CorpusError(f"{name} is of no known kind. Give a {', '.join(_READERS)} file.")
    with _explain_damage(path, name), _open(path, name) as file:
        yield from read(file, name, text_column, columns)


def missing_column(name: str, text_column: str, columns: Iterable[str]) -> CorpusError:
    """Return the error of a file without the column; it names those that there are."""
    names = list(columns)
    if text_column not in names and "input_ids" in names and "text" not in names:
        return CorpusError(
            f"{name} has no column '{text_column}', but token ids in 'input_ids'. SeeSAE reads text and tokenises it "
            "with the model's own tokenizer: give the text that these were made from."
        )
    shown = ", ".join(map(_printable, names[:_MOST_NAMED])) + (", …" if len(names) > _MOST_NAMED else "")
    return CorpusError(
        f"{name} has no column '{text_column}'. Its columns are {shown or 'without names'}: name the one that holds "
        "the text as `text_column`."
    )


def _printable(column: str) -> str:
    return (column if column.isprintable() else ascii(column))[:60]


def _refuse_repeated(name: str, columns: Iterable[str], header: Sequence[str]) -> None:
    twice = next((column for column in columns if header.count(column) > 1), None)
    if twice is not None:
        raise CorpusError(f"{name} has two columns '{twice}'. Give each its own name.")


def not_text(where: str, column: str, kind: str) -> CorpusError:
    """Return the error of a value or a column that is not text."""
    return CorpusError(
        f"{where} holds {kind} in column '{column}', not text. Correct it, or name another `text_column`."
    )


def _read_paragraphs(file: BinaryIO, name: str, text_column: str, columns: Sequence[str]) -> Iterator[Row]:
    """Yield the paragraphs of plain text, which blank lines part. Line ends are the file's, and become newlines."""
    if text_column != "text":
        raise CorpusError(f"{name} is plain text and has no column '{text_column}'. Leave `text_column` out.")
    paragraph: list[str] = []
    for line in _text(file, newline=None):
        if line.strip():
            paragraph.append(line)
        elif paragraph:
            yield {"text": "".join(paragraph).removesuffix("\n")}
            paragraph = []
    if paragraph:
        yield {"text": "".join(paragraph).removesuffix("\n")}


def _read_json(file: BinaryIO, name: str, text_column: str, columns: Sequence[str]) -> Iterator[Row]:
    return _objects(json_rows(_text(file)), name, text_column)


def _read_json_lines(file: BinaryIO, name: str, text_column: str, columns: Sequence[str]) -> Iterator[Row]:
    return _objects(json_lines(_text(file)), name, text_column)


def _objects(values: Iterator[Any], name: str, text_column: str) -> Iterator[Row]:
    """Yield the values, which must be objects, one of them with the text's column."""
    others: dict[str, None] | None = {}
    number = 0
    for number, value in enumerate(values, start=1):
        if not isinstance(value, dict):
            raise CorpusError(f"Row {number} of {name} is not an object with columns. Give one object per row.")
        if text_column in value:
            others = None
        if others is not None and len(others) <= _MOST_NAMED:
            others |= dict.fromkeys(value)
        yield value
    if others is not None and number:
        raise missing_column(name, text_column, others)


def _read_csv(file: BinaryIO, name: str, text_column: str, columns: Sequence[str]) -> Iterator[Row]:
    return _read_table(csv.reader(_lines(file), strict=True), name, text_column, columns)


def _read_tsv(file: BinaryIO, name: str, text_column: str, columns: Sequence[str]) -> Iterator[Row]:
    return _read_table(csv.reader(_lines(file), csv.excel_tab, strict=True), name, text_column, columns)


def _lines(file: BinaryIO) -> TextIO:
    csv.field_size_limit(_MOST_FIELD)  # of the whole process, whose default of 128 kB is less than a long document
    return _text(file)


def _read_table(reader: Any, name: str, text_column: str, columns: Sequence[str]) -> Iterator[Row]:
    """Yield the rows of a table whose first row has the columns' names."""
    try:
        header = next((row for row in reader if row), None)
        if header is None:
            return
        if text_column not in header:
            raise missing_column(name, text_column, header)
        _refuse_repeated(name, columns, header)
        places = {column: header.index(column) for column in columns if column in header}
        for row in reader:
            if row and len(row) != len(header):
                raise CorpusError(
                    f"The row that ends in line {reader.line_num} of {name} has {len(row)} fields, and the first row "
                    f"{len(header)}. Put fields that contain the separator in double quotes."
                )
            if row:
                yield {column: row[place] for column, place in places.items()}
    except csv.Error as error:
        raise CorpusError(
            f"{name} cannot be read: line {reader.line_num}: {first_line(error)}. Put the field in double quotes, and "
            "write a quote inside it twice."
        ) from None


def _read_parquet(file: BinaryIO, name: str, text_column: str, columns: Sequence[str]) -> Iterator[Row]:
    with _seekable(file) as seekable:
        table = pq.ParquetFile(seekable, buffer_size=_BUFFER, pre_buffer=False)
        wanted = _wanted(table.schema_arrow, name, text_column, columns)
        batches = table.iter_batches(_BATCH_ROWS, columns=wanted, use_threads=False)
        yield from _batch_rows(batches, name, wanted)


def _read_arrow(file: BinaryIO, name: str, text_column: str, columns: Sequence[str]) -> Iterator[Row]:
    """Yield the rows of Arrow's file format, or of its stream format, which `datasets` writes."""
    with _seekable(file) as seekable:
        is_file = seekable.read(6) == b"ARROW1"
        seekable.seek(0)
        if is_file:
            table = pa.ipc.open_file(seekable)
            batches: Iterable[Any] = (table.get_batch(number) for number in range(table.num_record_batches))
        else:
            batches = table = pa.ipc.open_stream(seekable)
        yield from _batch_rows(batches, name, _wanted(table.schema, name, text_column, columns))


def _wanted(schema: Any, name: str, text_column: str, columns: Sequence[str]) -> list[str]:
    """Return those of the columns that the schema has, in which the text must be text."""
    if text_column not in schema.names:
        raise missing_column(name, text_column, schema.names)
    _refuse_repeated(name, columns, schema.names)
    kind = schema.field(text_column).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    if not is_text and not pa.types.is_null(kind):
        is_ids = (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and pa.types.is_integer(kind.value_type)
        raise not_text(name, text_column, f"token ids ({kind})" if is_ids else str(kind))
    return [column for column in columns if column in schema.names]


def _batch_rows(batches: Iterable[Any], name: str, columns: list[str]) -> Iterator[Row]:
    """Yield the rows of record batches."""
    before = 0
    for batch in batches:
        for start in range(0, batch.num_rows, _BATCH_ROWS):
            part = batch.slice(start, _BATCH_ROWS).select(columns)
            try:
                yield from part.to_pylist()
            except UnicodeDecodeError:
                raise CorpusError(
                    f"One of rows {before + 1:,} to {before + part.num_rows:,} of {name} is not valid UTF-8. "
                    "Write the file again from text."
                ) from None
            before += part.num_rows


_READERS: dict[str, Callable[[BinaryIO, str, str, Sequence[str]], Iterator[Row]]] = {
    ".txt": _read_paragraphs,
    ".jsonl": _read_json_lines,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".parquet": _read_parquet,
    ".arrow": _read_arrow,
}
ENDINGS = tuple(_READERS)


@contextmanager
def _open(path: Path, name: str) -> Iterator[BinaryIO]:
    """Open a file, decompressed."""
    opener = _OPENERS.get(Path(name.lower()).suffix)
    with path.open("rb") if opener is None else opener(path) as file:
        yield cast("BinaryIO", file)


def _text(file: BinaryIO, newline: str | None = "") -> TextIO:
    """Decode a file as UTF-8; a byte order mark at its start is not text."""
    return io.TextIOWrapper(file, encoding="utf-8-sig", newline=newline)


@contextmanager
def _seekable(file: BinaryIO) -> Iterator[BinaryIO]:
    """Yield a file that can be read from any place: what is compressed goes through a temporary file."""
    if isinstance(getattr(file, "raw", None), io.FileIO):
        yield file
        return
    with tempfile.TemporaryFile(prefix="seesae-") as copy:
        shutil.copyfileobj(file, copy, _BUFFER)
        copy.seek(0)
        yield cast("BinaryIO", copy)


@contextmanager
def _explain_damage(path: Path, name: str) -> Iterator[None]:
    """Turn the errors of decoders into one line that names the file, and the line if it is not UTF-8."""
    try:
        yield
    except UnicodeDecodeError:
        raise CorpusError(
            f"Line {_first_broken_line(path, name):,} of {name} is not valid UTF-8. Save the file as UTF-8."
        ) from None
    except (JsonError, pa.ArrowException, OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise CorpusError(f"{name} cannot be read: {first_line(error)}. Fix the file.") from error


def _first_broken_line(path: Path, name: str) -> int:
    """Return the number of the first line that is not UTF-8."""
    with _open(path, name) as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return number
    raise AssertionError("every line is valid")
