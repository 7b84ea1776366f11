"""Whatever text is written to a file, in every format, is the text that is read."""

import bz2
import csv
import gzip
import io
import json
import lzma
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sae_core.corpora import load_corpus
from sae_core.corpora.files import read_rows
from sae_core.errors import CorpusError

TRICKY = ["2024-01-01", "NA", "null", "1e5", "007", "\ufeff", "a\u2028b", '"', ",", "\t", "\r\n", "=1+1", "\\", "{}"]
TEXTS = st.lists(
    st.one_of(st.sampled_from(TRICKY), st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))),
    min_size=1,
    max_size=6,
)


def as_csv(texts: list[str], dialect: str = "excel") -> bytes:
    file = io.StringIO(newline="")
    writer = csv.writer(file, dialect, quoting=csv.QUOTE_ALL)
    writer.writerows([["other", "text"], *([1, text] for text in texts)])
    return file.getvalue().encode()


def as_json_lines(texts: list[str]) -> bytes:
    return b"".join(json.dumps({"text": text}, ensure_ascii=False).encode() + b"\n" for text in texts)


def as_json(texts: list[str]) -> bytes:
    return json.dumps([{"other": [{}], "text": text} for text in texts], indent=1).encode()


def as_summaries(texts: list[str]) -> bytes:
    return json.dumps({str(number): {"extract": text} for number, text in enumerate(texts)}).encode()


def as_parquet(texts: list[str]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"other": [[1]] * len(texts), "text": texts}), sink, row_group_size=2)
    return sink.getvalue()


def as_arrow(texts: list[str], new: Callable[..., Any] = pa.ipc.new_file) -> bytes:
    table = pa.table({"other": [[1]] * len(texts), "text": pa.array(texts).dictionary_encode()})
    sink = io.BytesIO()
    with new(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


WRITERS: dict[str, Callable[[list[str]], bytes]] = {
    "a.csv": as_csv,
    "a.tsv": lambda texts: as_csv(texts, "excel-tab"),
    "a.jsonl": as_json_lines,
    "lines.json": as_json_lines,
    "a.json": as_json,
    "summaries.json": as_summaries,
    "a.parquet": as_parquet,
    "a.arrow": as_arrow,
    "stream.arrow": lambda texts: as_arrow(texts, pa.ipc.new_stream),
    "a.jsonl.gz": lambda texts: gzip.compress(as_json_lines(texts)),
    "a.csv.bz2": lambda texts: bz2.compress(as_csv(texts)),
    "a.json.xz": lambda texts: lzma.compress(as_json(texts)),
    "a.jsonl.zst": lambda texts: pa.compress(as_json_lines(texts), codec="zstd", asbytes=True),
    "a.parquet.gz": lambda texts: gzip.compress(as_parquet(texts)),
    "a.arrow.zst": lambda texts: pa.compress(as_arrow(texts), codec="zstd", asbytes=True),
}


@pytest.mark.parametrize("name", WRITERS)
@given(texts=TEXTS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_text_is_read_as_it_was_written(name: str, texts: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(WRITERS[name](texts))
        assert [row["text"] for row in read_rows(path, name, "text", ("text",))] == texts
        whole = [text for text in texts if text.strip()]
        if whole:
            assert load_corpus(path).documents["text"][:] == whole


@given(texts=TEXTS)
@settings(max_examples=25, deadline=None)
def test_paragraphs_are_read_as_they_were_written(texts: list[str]) -> None:
    lines = [text.strip("\ufeff").replace("\r", "").replace("\n", "") for text in texts]
    whole = [line for line in lines if line.strip()]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.txt"
        path.write_text("\n\n".join(whole), encoding="utf-8", newline="")
        assert [row["text"] for row in read_rows(path, "a.txt", "text", ("text",))] == whole


@given(st.binary(max_size=200), st.sampled_from(sorted(WRITERS)))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_read_or_refused_in_one_line(content: bytes, name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        try:
            load_corpus(path)
        except CorpusError as error:
            assert "\n" not in str(error)
