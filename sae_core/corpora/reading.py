"""Read text through `datasets`: local files, or a dataset of the hub."""

import hashlib
import json
import logging
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
from datasets import Dataset

from sae_core.corpora.sequences import CorpusInfo
from sae_core.errors import CorpusError, first_line

_BUILDERS = {".json": "json", ".jsonl": "json", ".parquet": "parquet", ".csv": "csv", ".txt": "text"}
_LONGEST_SLUG = 80
_COMPRESSION = (".gz", ".zst", ".xz", ".bz2")


@dataclass(frozen=True, eq=False)
class Corpus:
    """Named documents with their source and licence."""

    slug: str
    title: str
    source: str
    """File name or hub id."""
    licence: str | None
    attribution: str | None
    documents: Dataset
    """Columns text, title, topic (None where unknown), and whatever else the source has."""
    sha256: str
    """Of the documents' titles, topics and texts, in order."""

    @property
    def info(self) -> CorpusInfo:
        """The corpus without its documents."""
        return CorpusInfo(self.slug, self.title, self.source, self.licence, self.attribution, self.sha256)


def load_corpus(
    source: str | Path,
    *,
    slug: str | None = None,
    title: str | None = None,
    licence: str | None = None,
    attribution: str | None = None,
    text_column: str = "text",
    config: str | None = None,
    split: str = "train",
    max_documents: int | None = None,
    cache: Path | None = None,
) -> Corpus:
    """Read a corpus.

    A document is a row of a table, a line of JSON lines, or a paragraph (parted by blank lines) of plain text. Those
    without text are left out. NUL characters are removed, because Postgres cannot hold them.

    Args:
        source: a .json, .jsonl, .parquet, .csv or .txt file (compressed or not), or a hub id. A .json file
            may also be an object of `{title: {"extract": text, "topic": …}}`, as encyclopaedia summaries come.
        slug: name in URLs; by default made from `source`.
        title: name for people; by default the file's name or the hub id.
        licence: of the text, such as `CC BY-SA 4.0`.
        attribution: whom to name wherever the text is shown.
        text_column: column that holds the text; columns `title` and `topic` are used if they are there.
        config: configuration of a dataset of the hub that has several.
        split: split of a dataset of the hub.
        max_documents: read only so many documents; of a dataset of the hub, no more than these are downloaded.
        cache: folder for what `datasets` keeps on disk. None holds the documents in memory.

    Raises:
        CorpusError: there is no such corpus, it cannot be read, has no such column, or holds no text.
    """
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(logging.CRITICAL)
    path = Path(source).expanduser()
    name = path.name if _looks_local(path) else str(source)
    with _cache_folder(cache) as folder, _explain_failure(name):
        if _looks_local(path):
            table = _read_file(path, folder, keep_in_memory=cache is None)
        else:
            table = _read_hub(str(source), config, split, max_documents, folder)
        if max_documents is not None:
            table = table.select(range(min(max_documents, len(table))))
        documents = _clean(table, name, text_column, title or name, keep_in_memory=cache is None)
    if len(documents) == 0:
        raise CorpusError(f"{name} holds no text. Give a corpus with at least a few thousand words.")
    return Corpus(
        slug=slug or corpus_slug(path.name),
        title=title or name,
        source=name,
        licence=licence,
        attribution=attribution,
        documents=documents,
        sha256=_sha256(documents),
    )


def _looks_local(path: Path) -> bool:
    """True if `path` is meant as a file: it exists, is absolute, or has a known ending."""
    return path.exists() or path.is_absolute() or path.suffix in (*_BUILDERS, *_COMPRESSION)


def _read_file(path: Path, cache: Path, *, keep_in_memory: bool) -> Dataset:
    if not path.is_file():
        raise CorpusError(f"There is no file {path}. Check the path, or give the hub id of a dataset.")
    bare = path.with_suffix("") if path.suffix in _COMPRESSION else path
    builder = _BUILDERS.get(bare.suffix)
    if builder is None:
        raise CorpusError(f"{path} is of no known kind. Give a {', '.join(_BUILDERS)} file.")
    if path.stat().st_size == 0:
        raise CorpusError(f"{path.name} is empty. Give a corpus with at least a few thousand words.")
    if bare.suffix == ".json" and (rows := _read_extracts(path)) is not None:
        return Dataset.from_list(rows)
    options = {"sample_by": "paragraph"} if builder == "text" else {}
    return datasets.load_dataset(
        builder,
        data_files=str(path),
        split="train",
        cache_dir=str(cache),
        keep_in_memory=keep_in_memory,
        **options,
    )


def _read_extracts(path: Path) -> list[dict[str, Any]] | None:
    """Documents of a `{title: {"extract": text, …}}` file; None if the file is something else."""
    with path.open("rb") as file:
        if not re.match(rb'\s*\{\s*"(\\.|[^"\\])*"\s*:\s*\{', file.read(4096)):
            return None
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError:  # JSON lines whose first field is an object
        return None
    if not all(isinstance(entry, dict) and "extract" in entry for entry in entries.values()):
        return None
    return [{"title": title, "text": entry.pop("extract"), **entry} for title, entry in entries.items()]


def _read_hub(name: str, config: str | None, split: str, max_documents: int | None, cache: Path) -> Dataset:
    if max_documents is None:
        return datasets.load_dataset(name, config, split=split, cache_dir=str(cache))
    rows = datasets.load_dataset(name, config, split=split, streaming=True).take(max_documents)
    return Dataset.from_list(list(rows))


def _clean(table: Dataset, name: str, text_column: str, title: str, *, keep_in_memory: bool) -> Dataset:
    """Columns text, title and topic, strings without NUL; rows without text left out."""
    if text_column not in table.column_names:
        raise CorpusError(
            f"{name} has no column '{text_column}'. Its columns are {', '.join(table.column_names)}: name the one that "
            "holds the text."
        )
    if table.features[text_column].dtype not in ("string", "large_string"):
        kind = table.features[text_column].dtype
        raise CorpusError(
            f"Column '{text_column}' of {name} holds {kind}, not text. Name the column that holds the text."
        )

    def clean(rows: dict[str, list[Any]], numbers: list[int]) -> dict[str, list[str | None]]:
        nothing = [None] * len(numbers)
        titles = zip(rows.get("title", nothing), numbers, strict=True)
        return {
            "text": [_without_nul(text) or "" for text in rows[text_column]],
            "title": [_without_nul(given) or f"{title}, {number + 1}" for given, number in titles],
            "topic": [_without_nul(topic) for topic in rows.get("topic", nothing)],
        }

    features = datasets.Features(
        {**table.features, **dict.fromkeys(("text", "title", "topic"), datasets.Value("large_string"))}
    )
    table = table.map(clean, batched=True, with_indices=True, features=features, keep_in_memory=keep_in_memory)
    if text_column != "text":
        table = table.remove_columns(text_column)
    return table.filter(_has_text, input_columns="text", keep_in_memory=keep_in_memory)


def _has_text(text: str) -> bool:
    return bool(text.strip())


def _without_nul(value: Any) -> str | None:
    return None if value is None else str(value).replace("\0", "")


def _sha256(documents: Dataset) -> str:
    digest = hashlib.sha256()
    for row in documents.select_columns(["title", "topic", "text"]):
        digest.update(json.dumps([row["title"], row["topic"], row["text"]]).encode())
    return digest.hexdigest()


@contextmanager
def _cache_folder(cache: Path | None) -> Iterator[Path]:
    if cache is not None:
        yield cache
        return
    with tempfile.TemporaryDirectory(prefix="seesae-") as folder:
        yield Path(folder)


@contextmanager
def _explain_failure(name: str) -> Iterator[None]:
    """Turn the errors of `datasets` and its readers into one line."""
    try:
        yield
    except datasets.exceptions.DatasetGenerationError as error:
        raise CorpusError(f"{name} cannot be read: {first_line(error.__cause__ or error)}. Fix the file.") from error
    except (datasets.exceptions.DatasetsError, OSError, ValueError, ImportError) as error:
        raise CorpusError(
            f"{name} cannot be read: {first_line(error)}. Check the name and the network, or give a local file."
        ) from error


def corpus_slug(name: str) -> str:
    """`summaries_en-us.json` -> `summaries-en-us`."""
    for ending in (*_COMPRESSION, *_BUILDERS):
        name = name.removesuffix(ending)
    return re.sub(r"[^a-z0-9]+", "-", name.lower())[:_LONGEST_SLUG].strip("-") or "corpus"
