"""Read a corpus: a local file, a folder of files, or a dataset of the hub."""

import hashlib
import json
import logging
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from sae_core.corpora.files import COMPRESSION, ENDINGS, Row, ending, not_text, read_rows
from sae_core.corpora.sequences import CorpusInfo
from sae_core.errors import CorpusError
from sae_core.files import expand_home, explain_full_disk

if TYPE_CHECKING:
    from datasets import Dataset  # which takes a sixth of a process's start: the functions that need it import it

_LONGEST_SLUG = 80
_SCHEMA = pa.schema(dict.fromkeys(("text", "title", "topic"), pa.large_string()))
_BATCH_CHARACTERS = 1 << 22
_BATCH_ROWS = 1000

_Document = dict[str, str | None]
"""Values of the columns of `_SCHEMA`; the text is never None."""


@dataclass(frozen=True, eq=False)
class Corpus:
    """Named documents with their source and licence."""

    slug: str
    title: str
    source: str
    """File name or hub id."""
    licence: str | None
    attribution: str | None
    documents: "Dataset"
    """Columns text, title and topic (None where unknown)."""
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
    """Read a corpus, one document at a time.

    A document is a row of a table, a line of JSON lines, or a paragraph (parted by blank lines) of plain text. Those
    without text are left out. Text stays exactly as it is written, but for NUL characters, which Postgres cannot hold,
    and a byte order mark. Only the columns of text, title and topic are read.

    Args:
        source: a .json, .jsonl, .parquet, .arrow, .csv, .tsv or .txt file (compressed or not), a folder of them that is
            laid out as `datasets` expects, or a hub id. A .json file may also be an object of
            `{title: {"extract": text, "topic": …}}`, as encyclopaedia summaries come.
        slug: name in URLs; by default made from `source`.
        title: name for people; by default the file's name or the hub id, with `config`, `split` and `text_column` if
            they are not the default.
        licence: of the text, such as `CC BY-SA 4.0`.
        attribution: whom to name wherever the text is shown.
        text_column: column that holds the text; columns `title` and `topic` are used if they are there.
        config: configuration of a dataset that has several.
        split: split of a dataset.
        max_documents: read only so many rows; of a dataset of the hub, only the files that hold these are downloaded.
        cache: folder for the documents and what is downloaded. None holds the documents in memory.

    Raises:
        CorpusError: there is no such corpus, it cannot be read, has no such column, a row holds something else than
            text, or there is no text at all.
        ArtifactError: the disk is full.
    """
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(logging.CRITICAL)
    path = expand_home(source)
    name = path.name if _looks_local(source) else str(source)
    options = [config, None if split == "train" else split, None if text_column == "text" else text_column]
    shown = ", ".join(filter(None, options))
    columns = tuple(dict.fromkeys((text_column, "title", "topic")))
    with _cache_folder(cache) as folder:
        rows = (
            (f"Row {number:,} of {file_name}", row)
            for file, file_name in _files(source, path, config, split, folder)
            for number, row in enumerate(read_rows(file, file_name, text_column, columns), start=1)
        )
        digest = hashlib.sha256()
        documents = _hashed(_documents(islice(rows, max_documents), text_column, title or name), digest)
        table = _in_memory(documents) if cache is None else _on_disk(documents, folder, digest)
    if len(table) == 0:
        raise CorpusError(f"{name} holds no text. Give a corpus with at least a few thousand words.")
    return Corpus(
        slug=slug or corpus_slug(path.name, shown),
        title=title or (f"{name} ({shown})" if shown else name),
        source=name,
        licence=licence,
        attribution=attribution,
        documents=table,
        sha256=digest.hexdigest(),
    )


def _looks_local(source: str | Path) -> bool:
    """True if `source` is meant as a path: it exists, has a known ending, or is written as no hub id is."""
    path = expand_home(source)
    return (
        isinstance(source, Path)
        or os.path.exists(path)  # noqa: PTH110 - False for names that are too long, where Path.exists raises
        or str(source).startswith(("/", ".", "~"))
        or len(path.parts) > 2
        or path.suffix.lower() in (*ENDINGS, *COMPRESSION)
    )


def _files(source: str | Path, path: Path, config: str | None, split: str, cache: Path) -> Iterator[tuple[Path, str]]:
    """Yield path and name of each file of the corpus."""
    if os.path.isfile(path):  # noqa: PTH113 - as above
        if config is not None or split != "train":
            raise CorpusError(
                f"{path.name} is one file. `subset` and `split` choose a part of a dataset: leave them out."
            )
        if path.stat().st_size == 0:
            raise CorpusError(f"{path.name} is empty. Give a corpus with at least a few thousand words.")
        yield path, path.name
        return
    is_local = _looks_local(source)
    if is_local and not os.path.isdir(path):  # noqa: PTH112 - as above
        raise CorpusError(f"There is no file {path}. Check the path, or give the hub id of a dataset.")
    from sae_core.corpora.hub import dataset_files

    yield from dataset_files(str(path) if is_local else str(source), config, split, cache)


def _documents(rows: Iterable[tuple[str, Row]], text_column: str, title: str) -> Iterator[_Document]:
    """Yield text, title and topic of the rows that have text, without NUL; each row comes with its name."""
    for number, (where, row) in enumerate(rows, start=1):
        text = row.get(text_column)
        if text is not None and not isinstance(text, str):
            raise not_text(where, text_column, _kind(text))
        text = (text or "").replace("\0", "")
        if text.strip():
            document: _Document = {
                "text": text,
                "title": _as_text(row.get("title")) or f"{title}, {number}",
                "topic": _as_text(row.get("topic")),
            }
            _require_unicode(document, where)
            yield document


def _kind(value: Any) -> str:
    """Return words for a value that is not text."""
    if isinstance(value, list):
        is_ids = bool(value) and all(isinstance(entry, int) for entry in value)
        return "token ids" if is_ids else "a list"
    return "an object" if isinstance(value, dict) else f"the value {json.dumps(value, default=str)[:40]}"


def _as_text(value: Any) -> str | None:
    """Return a title or a topic as text, without NUL."""
    return None if value is None else str(value).replace("\0", "")


def _require_unicode(document: _Document, where: str) -> None:
    """Refuse halves of characters, which JSON can escape but no text can hold."""
    for column, value in document.items():
        try:
            (value or "").encode()
        except UnicodeEncodeError as error:
            raise CorpusError(
                f"{where} has half of a character in its {column} (\\u{ord(error.object[error.start]):04x} alone). "
                "Write the file again from whole text."
            ) from None


def _hashed(documents: Iterable[_Document], digest: Any) -> Iterator[_Document]:
    """Yield the documents, and add them to the hash."""
    for document in documents:
        digest.update(json.dumps([document["title"], document["topic"], document["text"]]).encode())
        yield document


def _in_memory(documents: Iterable[_Document]) -> "Dataset":
    from datasets import Dataset

    sink = pa.BufferOutputStream()
    _write(documents, sink)
    return Dataset.from_buffer(sink.getvalue())


def _on_disk(documents: Iterable[_Document], folder: Path, digest: Any) -> "Dataset":
    """Write the documents to a file that is named by their hash, and map it into memory."""
    from datasets import Dataset

    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".corpus-") as unfinished, explain_full_disk(folder):
        written = Path(unfinished) / "documents.arrow"
        _write(documents, str(written))
        final = written.replace(folder / f"{digest.hexdigest()}.arrow")
    return Dataset.from_file(str(final))


def _write(documents: Iterable[_Document], sink: Any) -> None:
    """Write the documents in batches of bounded size."""
    with pa.ipc.new_stream(sink, _SCHEMA) as writer:
        batch: list[_Document] = []
        characters = 0
        for document in documents:
            batch.append(document)
            characters += len(document["text"] or "")
            if len(batch) == _BATCH_ROWS or characters >= _BATCH_CHARACTERS:
                writer.write_batch(pa.RecordBatch.from_pylist(batch, _SCHEMA))
                batch, characters = [], 0
        writer.write_batch(pa.RecordBatch.from_pylist(batch, _SCHEMA))


@contextmanager
def _cache_folder(cache: Path | None) -> Iterator[Path]:
    if cache is not None:
        yield cache
        return
    with tempfile.TemporaryDirectory(prefix="seesae-") as folder:
        yield Path(folder)


def corpus_slug(name: str, options: str = "") -> str:
    """`summaries_en-us.json` -> `summaries-en-us`."""
    if ending(name) in ENDINGS:
        name = name[: name.lower().rindex(ending(name))]
    return re.sub(r"[^a-z0-9]+", "-", f"{name} {options}".lower())[:_LONGEST_SLUG].strip("-") or "corpus"
