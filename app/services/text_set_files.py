"""Text sets out of files: JSON lines, CSV, Parquet, or one text per line.

A file is read row by row and checked as it is read, so that an error names its line. What a column means is said by its
name, or by the user: `text`, `label`, `group`, `pair`, `score`, `chat` and `split`; the others are kept as they are.
"""

import csv
import io
import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import count
from typing import Any, BinaryIO, get_args

from app.errors import TooLarge, Unprocessable
from app.queries.text_sets import SPLITS, Split, TextItem
from app.services.text_sets import split_by_hash

MAX_TEXTS = 200_000
MAX_TEXT = 100_000
MAX_VALUE = 500
MAX_FIELDS = 20_000
MAX_DEPTH = 50
"""Levels of lists and objects within a column that is kept as it is."""
MAX_KINDS = 1_000
"""Different labels, and different groups, of a set: pages, forms and answers list them."""
MAX_PARQUET = 1_000_000_000
"""Bytes of a Parquet file's columns without compression, which may be a millionth of them."""
_PARQUET_ROWS = 50
"""Rows at once: a column that repeats one long value is small until its rows are there."""
ROLES = ("system", "user", "assistant")
FORMATS = ("jsonl", "csv", "parquet", "txt")

Row = tuple[str, Mapping[str, Any]]
"""Where a row stands, such as “line 7”, and its values by column."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of the columns; the column of the field's own name counts where it is there and nothing else is said."""

    text: str = "text"
    label: str | None = None
    group: str | None = None
    pair: str | None = None
    score: str | None = None
    chat: str | None = None
    split: str | None = None


def read_file(file: BinaryIO, name: str, columns: Columns = Columns()) -> list[TextItem]:
    """Return the texts of a file, with their parts: those that it names, or parts by hash.

    Raises:
        Unprocessable: the file is not what its name says, lacks a column, or has a value that cannot be.
        TooLarge: there are more than `MAX_TEXTS` texts.
    """
    kind = name.rpartition(".")[2].lower()
    read = _READERS.get(kind)
    if read is None:
        raise Unprocessable(f"{name} is of an unknown kind: bring a file that ends with .{', .'.join(FORMATS)}.")
    return read_rows(read(file, name), name, columns)


def read_rows(rows: Iterable[Row], name: str, columns: Columns = Columns()) -> list[TextItem]:
    """Return texts from rows, as `read_file` does."""
    items: list[TextItem] = []
    used = {meaning: asked or meaning for meaning, asked in asdict(columns).items()}
    has_splits = False
    for place, row in rows:
        where = f"{place.capitalize()} of {name}"
        if not items:
            _check_columns(row, name, columns)
        if len(items) == MAX_TEXTS:
            raise TooLarge(f"{name} has more than {MAX_TEXTS:,} texts, the most that a set holds.")
        split = row.get(used["split"])
        has_splits = has_splits or (not items and split not in (None, ""))
        items.append(
            replace(_item(len(items), row, used, where), split=_split(split, where) if has_splits else "train")
        )
    if not items:
        raise Unprocessable(f"{name} has no texts.")
    if not has_splits:
        items = split_by_hash(items)
    _check_kinds(items, name, used)
    check_pairs(items)
    return items


def _check_kinds(items: Sequence[TextItem], name: str, used: Mapping[str, str]) -> None:
    """Refuse a column of labels or groups that is rather one of ids, or of texts."""
    for meaning in ("label", "group"):
        kinds = len({getattr(item, meaning) for item in items} - {None})
        if kinds > MAX_KINDS:
            raise Unprocessable(
                f"{name} has {kinds:,} different values in “{used[meaning]}”, and a set has at most {MAX_KINDS:,} "
                f"{meaning}s. Name another column as the {meaning}, or rename this one so that it is kept as it is."
            )


def _check_columns(first: Mapping[str, Any], name: str, columns: Columns) -> None:
    """Refuse a file whose first row lacks a column that the user named, or any text."""
    has_text = columns.text in first or (columns.chat or "chat") in first
    missing = [asked for asked in asdict(columns).values() if asked not in (None, columns.text) and asked not in first]
    if not has_text:
        missing.insert(0, columns.text)
    if missing:
        there = ", ".join(map(str, list(first)[:20])) or "none"
        raise Unprocessable(f"{name} has no column “{missing[0]}”. Its columns are: {there}.")


def _item(number: int, row: Mapping[str, Any], used: Mapping[str, str], place: str) -> TextItem:
    values = {meaning: row.get(column) for meaning, column in used.items()}
    chat = _chat(values["chat"], place) if values["chat"] not in (None, "") else None
    text = values["text"]
    if text in (None, "") and chat:
        text = "\n".join(turn["content"] for turn in chat)
    if not isinstance(text, str):
        raise Unprocessable(f"{place}: “{used['text']}” is {_kind(text)}, and must be text.")
    if not text.strip():
        raise Unprocessable(f"{place} has no text.")
    if len(text) > MAX_TEXT:
        raise Unprocessable(f"{place} has {len(text):,} characters; a text has at most {MAX_TEXT:,}.")
    others = {str(name): value for name, value in row.items() if name not in used.values()}
    return TextItem(
        number,
        text,
        "train",
        label=_name(values["label"], "label", place),
        group=_name(values["group"], "group", place),
        pair=_name(values["pair"], "pair", place),
        score=_score(values["score"], place),
        chat=chat,
        fields=_fields(others, place),
    )


def _fields(others: Mapping[str, Any], place: str) -> Mapping[str, Any]:
    """Return the columns of no meaning here as JSON holds them, without the empty ones."""
    given = {name: value for name, value in others.items() if value not in (None, "")}
    if _is_deeper(given, MAX_DEPTH):
        raise Unprocessable(f"{place}: its other columns are nested in more than {MAX_DEPTH} levels. Leave them out.")
    written = json.dumps(given, default=str)
    if len(written) > MAX_FIELDS:
        raise Unprocessable(f"{place}: its other columns hold more than {MAX_FIELDS:,} characters. Leave some out.")
    fields: Mapping[str, Any] = json.loads(written)
    return fields


def _is_deeper(value: Any, levels: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels == 0 or any(_is_deeper(each, levels - 1) for each in inner)


def _kind(value: Any) -> str:
    kinds = {type(None): "missing", bool: "true or false", int: "a number", float: "a number", list: "a list"}
    return kinds.get(type(value), "an object")


def _name(value: Any, meaning: str, place: str) -> str | None:
    """Return a label, group or pair as text; NaN is how tables write a missing one."""
    if value is None or value == "" or value != value:
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # a column of numbers with gaps
    if not isinstance(value, (str, int, float)):
        raise Unprocessable(f"{place}: the {meaning} is {_kind(value)}, and must be one word or number.")
    if len(str(value)) > MAX_VALUE:
        raise Unprocessable(f"{place}: the {meaning} has more than {MAX_VALUE} characters.")
    return str(value).strip() or None


def _score(value: Any, place: str) -> float | None:
    if value is None or value == "":
        return None
    try:
        score = float(value)
    except (TypeError, ValueError, OverflowError):
        score = math.inf
    if math.isinf(score):
        raise Unprocessable(f"{place}: the score is “{str(value)[:40]}”, and must be a number.")
    return None if math.isnan(score) else score


_PARTS: dict[str, Split] = {name: name for name in SPLITS} | {"validation": "calibration", "dev": "calibration"}


def _split(value: Any, place: str) -> Split:
    found = _PARTS.get(str(value).strip().lower())
    if found is None:
        said = "missing" if value in (None, "") else f"“{str(value)[:40]}”"
        raise Unprocessable(f"{place}: the split is {said}; it can be {', '.join(get_args(Split))}.")
    return found


def _chat(value: Any, place: str) -> tuple[Mapping[str, str], ...]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = None
    turns = value if isinstance(value, list) else None
    if not turns or not all(
        isinstance(turn, dict) and turn.get("role") in ROLES and isinstance(turn.get("content"), str) for turn in turns
    ):
        raise Unprocessable(
            f"{place}: a chat is a list of turns such as "
            '{"role": "user", "content": "…"}, with the roles ' + f"{', '.join(ROLES)}."
        )
    return tuple({"role": turn["role"], "content": turn["content"]} for turn in turns)


def check_pairs(items: Sequence[TextItem]) -> None:
    """Refuse pairs that do not align.

    Raises:
        Unprocessable: a pair has one text, two of one side, or its texts are in different parts.
    """
    pairs: dict[str, list[TextItem]] = defaultdict(list)
    for item in items:
        if item.pair is not None:
            pairs[item.pair].append(item)
    checks: tuple[tuple[str, Callable[[list[TextItem]], bool]], ...] = (
        ("has one text, and a pair needs one of each side", lambda texts: len(texts) < 2),
        ("has two texts with one label, and the label says which side a text is", _repeats_a_label),
        ("has texts in different splits; they belong in one", lambda texts: len({text.split for text in texts}) > 1),
    )
    for fault, is_faulty in checks:
        if found := [key for key, texts in pairs.items() if is_faulty(texts)]:
            more = f" {len(found):,} of {len(pairs):,} pairs are like that." if len(found) > 1 else ""
            raise Unprocessable(f"The pair “{found[0][:60]}” {fault}.{more}")


def _repeats_a_label(texts: Sequence[TextItem]) -> bool:
    labels = Counter(text.label for text in texts if text.label is not None)
    return any(times > 1 for times in labels.values())


# --- kinds of files


def _text_of(file: BinaryIO, name: str) -> Iterator[str]:
    """Yield a file's lines, as UTF-8."""
    try:
        yield from io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    except UnicodeDecodeError:
        raise Unprocessable(f"{name} is not text in UTF-8.") from None


def _of_json_lines(file: BinaryIO, name: str) -> Iterator[Row]:
    for number, line in enumerate(_text_of(file, name), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            raise Unprocessable(f"Line {number} of {name} is not JSON: each line holds one text or object.") from None
        if not isinstance(value, (dict, str)):
            raise Unprocessable(f"Line {number} of {name} is {_kind(value)}, and must be a text or an object.")
        yield f"line {number}", {"text": value} if isinstance(value, str) else value


def _of_csv(file: BinaryIO, name: str) -> Iterator[Row]:
    rows = csv.DictReader(_text_of(file, name), strict=True)
    try:
        if rows.fieldnames and len(set(rows.fieldnames)) < len(rows.fieldnames):
            raise Unprocessable(f"{name} has two columns of one name.")
        for row in rows:
            if None in row or None in row.values():
                raise Unprocessable(
                    f"Line {rows.line_num} of {name} has another number of columns than its first line: "
                    "put texts with commas between quotes."
                )
            yield f"line {rows.line_num}", row
    except csv.Error as error:
        raise Unprocessable(f"{name} is not valid CSV near line {rows.line_num + 1}: {error}.") from None


def _of_parquet(file: BinaryIO, name: str) -> Iterator[Row]:
    import pyarrow as pa  # half a second, for this kind of file alone
    import pyarrow.parquet as pq

    numbers = count(1)
    try:
        table = pq.ParquetFile(file)
        groups = map(table.metadata.row_group, range(table.metadata.num_row_groups))
        if sum(group.total_byte_size for group in groups) > MAX_PARQUET:
            raise TooLarge(f"{name} has columns of more than {MAX_PARQUET / 1e9:.0f} GB. Take some of its rows.")
        for batch in table.iter_batches(batch_size=_PARQUET_ROWS):
            for row in batch.to_pylist():
                yield f"row {next(numbers)}", row
    except (pa.ArrowException, OSError) as error:  # OSError: of a file that is cut or changed
        said = (str(error).splitlines() or [""])[0][:200]
        raise Unprocessable(f"{name} is not a Parquet file that can be read: {said}") from None


def _of_lines(file: BinaryIO, name: str) -> Iterator[Row]:
    for number, line in enumerate(_text_of(file, name), 1):
        if line.strip():
            yield f"line {number}", {"text": line.rstrip("\r\n")}


_READERS: dict[str, Callable[[BinaryIO, str], Iterator[Row]]] = {
    "jsonl": _of_json_lines, "csv": _of_csv, "parquet": _of_parquet, "txt": _of_lines,
}  # fmt: skip
