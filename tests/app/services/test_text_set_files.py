"""Text sets out of files: what columns mean, and what is refused, with the line."""

import io
import json
import math
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import Unprocessable, UserError
from app.services import text_set_files
from app.services.text_set_files import Columns, read_file
from app.services.text_sets import count_texts, remarks, split_of


def jsonl(*rows: Any) -> bytes:
    return "\n".join(map(json.dumps, rows)).encode()


CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]


def test_columns_are_known_by_their_names_or_as_it_is_said() -> None:
    rows = jsonl({"text": "a b", "label": True, "group": 3, "score": "0.5", "more": [1]}, {"chat": CHAT, "label": None})
    first, second = read_file(io.BytesIO(rows), "x.jsonl")
    assert (first.label, first.group, first.score, first.fields) == ("true", "3", 0.5, {"more": [1]})
    assert (second.text, second.chat, second.label) == ("hi\nhello", tuple(CHAT), None)
    assert first.split == split_of("A  b")
    table = b"review,stars,who\ngood,5,ada\nbad,1,bob\n"
    items = read_file(io.BytesIO(table), "x.csv", Columns(text="review", label="stars"))
    assert [(item.text, item.label, item.fields) for item in items] == [
        ("good", "5", {"who": "ada"}), ("bad", "1", {"who": "bob"}),
    ]  # fmt: skip


def test_every_kind_of_file_says_the_same(tmp_path: Any) -> None:
    pq.write_table(pa.table({"text": ["one, two", "thrée"], "label": ["a", "b"]}), tmp_path / "x.parquet")
    files = {
        "x.parquet": (tmp_path / "x.parquet").read_bytes(),
        "x.jsonl": jsonl({"text": "one, two", "label": "a"}, {"text": "thrée", "label": "b"}),
        "x.csv": '\ufefftext,label\r\n"one, two",a\r\nthrée,b\r\n'.encode(),
    }
    read = {name: read_file(io.BytesIO(content), name) for name, content in files.items()}
    assert read["x.parquet"] == read["x.jsonl"] == read["x.csv"]
    lines = read_file(io.BytesIO("one, two\n\nthrée\n".encode()), "x.txt")
    assert [(item.text, item.label) for item in lines] == [("one, two", None), ("thrée", None)]


def test_splits_that_a_file_names_are_kept_and_words_in_two_of_them_counted() -> None:
    rows = [{"text": "a", "split": "train"}, {"text": "A ", "split": "validation"}, {"text": "b", "split": "test"}]
    items = read_file(io.BytesIO(jsonl(*rows)), "x.jsonl")
    assert [item.split for item in items] == ["train", "calibration", "test"]
    counts = count_texts(items)
    assert (counts.duplicates, counts.shared) == (1, 1)


@pytest.mark.parametrize(
    ("name", "content", "columns", "message"),
    [
        ("x.doc", b"a", Columns(), "unknown kind.*jsonl, .csv, .parquet, .txt"),
        ("x.txt", b"\n\n", Columns(), "has no texts"),
        ("x.txt", b"a\xff", Columns(), "not text in UTF-8"),
        ("x.csv", b"words\na\n", Columns(), "no column “text”. Its columns are: words"),
        ("x.csv", b"text\na\n", Columns(label="mood"), "no column “mood”. Its columns are: text"),
        ("x.csv", b"text,label\na,b,c\n", Columns(), "Line 2 of x.csv has another number of columns"),
        ("x.csv", b'text\n"a', Columns(), "not valid CSV"),
        ("x.csv", b"text,text\na,b\n", Columns(), "two columns of one name"),
        ("x.jsonl", b'"a"\n{', Columns(), "Line 2 of x.jsonl is not JSON"),
        ("x.jsonl", b"[" * 100_000, Columns(), "Line 1 of x.jsonl is not JSON"),
        ("x.jsonl", b"3", Columns(), "is a number, and must be a text or an object"),
        ("x.jsonl", jsonl({"text": 3}), Columns(), "Line 1 of x.jsonl: “text” is a number, and must be text"),
        ("x.jsonl", jsonl("a", {"text": " "}), Columns(), "Line 2 of x.jsonl has no text"),
        ("x.jsonl", jsonl("x" * 100_001), Columns(), "at most 100,000"),
        ("x.jsonl", jsonl({"text": "a", "label": ["b"]}), Columns(), "the label is a list"),
        ("x.jsonl", jsonl({"text": "a", "label": "b" * 501}), Columns(), "label has more than 500"),
        ("x.jsonl", jsonl({"text": "a", "score": "high"}), Columns(), "the score is “high”, and must be a number"),
        ("x.jsonl", jsonl({"text": "a", "split": "third"}), Columns(), "the split is “third”"),
        ("x.jsonl", jsonl({"text": "a", "split": "test"}, {"text": "b"}), Columns(), "Line 2.*the split is missing"),
        ("x.jsonl", jsonl({"chat": "hi"}), Columns(), "a chat is a list of turns"),
        ("x.jsonl", jsonl({"chat": [{"role": "root", "content": "x"}]}), Columns(), "the roles system, user"),
        ("x.jsonl", jsonl({"text": "a", "more": "x" * 20_001}), Columns(), "other columns hold more than"),
        ("x.jsonl", jsonl({"text": "a", "score": 10**400}), Columns(), "the score is “10000.*must be a number"),
        ("x.jsonl", b'{"text": "a", "score": 1e400}', Columns(), "the score is “inf”, and must be a number"),
        ("x.jsonl", b'{"text": "a", "more": ' + b"[" * 900 + b"]" * 900 + b"}", Columns(), "nested in more than 50"),
        (
            "x.jsonl",
            jsonl(*({"text": "a", "id": n} for n in range(1001))),
            Columns(label="id"),
            "1,001.*in “id”.*1,000",
        ),
        ("x.jsonl", jsonl(*({"text": "a", "group": n} for n in range(1001))), Columns(), "another column as the group"),
        ("x.parquet", b"PAR1", Columns(), "not a Parquet file"),
        ("x.parquet", b"PAR1" + bytes(100) + b"PAR1", Columns(), "not a Parquet file"),
        ("x.jsonl", jsonl({"text": "a", "pair": 1}, {"text": "b", "pair": 2}), Columns(), "“1” has one text.*2 of 2"),
        (
            "x.jsonl",
            jsonl({"text": "a", "pair": 1, "label": "l"}, {"text": "b", "pair": 1, "label": "l"}),
            Columns(),
            "two texts with one label",
        ),
        (
            "x.jsonl",
            jsonl({"text": "a", "pair": 1, "split": "test"}, {"text": "b", "pair": 1, "split": "train"}),
            Columns(),
            "different splits",
        ),
    ],
)
def test_what_cannot_be_is_refused_with_its_line(name: str, content: bytes, columns: Columns, message: str) -> None:
    with pytest.raises(Unprocessable, match=message):
        read_file(io.BytesIO(content), name, columns)


def test_more_texts_than_a_set_holds_are_refused_before_all_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_set_files, "MAX_TEXTS", 2)
    with pytest.raises(UserError, match="more than 2 texts"):
        read_file(io.BytesIO(b"a\nb\nc\n" + b"\n" * 100_000 + b"\xff"), "x.txt")


@given(st.binary(max_size=300), st.sampled_from(text_set_files.FORMATS))
def test_any_file_is_read_or_refused_in_words(content: bytes, kind: str) -> None:
    try:
        items = read_file(io.BytesIO(content), f"x.{kind}")
    except UserError as error:
        assert str(error)
    else:
        assert items


def test_what_somebody_should_know_of_a_set_is_said() -> None:
    rows = [{"text": f"text {number}", "label": "a"} for number in range(50)]
    one_label = read_file(io.BytesIO(jsonl(*rows)), "x.jsonl")
    assert [said.split(":")[0] for said in remarks(count_texts(one_label))] == [
        "All labelled texts have the same label"
    ]
    few = read_file(io.BytesIO(jsonl(*rows[:1], {"text": "TEXT  0", "label": "b"})), "x.jsonl")
    said = remarks(count_texts(few))
    assert said[0] == "1 text repeats the words of another, in the same split."
    assert said[1].startswith("No text is in ") and len(said) == 2
    assert "stands in more than one split" in remarks(count_texts([few[0], replace(few[1], split="other")]))[0]  # type: ignore[arg-type]


def test_a_parquet_file_of_large_columns_is_refused_before_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_set_files, "MAX_PARQUET", 1_000_000)
    file = io.BytesIO()
    pq.write_table(pa.table({"text": [f"{n}" * 2000 for n in range(1000)]}), file, use_dictionary=False)
    with pytest.raises(UserError, match="columns of more than"):
        read_file(file, "x.parquet")


def test_a_small_parquet_file_that_repeats_a_long_text_does_not_fill_the_memory() -> None:
    file = io.BytesIO()
    texts = pa.DictionaryArray.from_arrays(pa.array([0] * 4000), ["a" * 100_001])
    pq.write_table(pa.table({"text": texts}), file, store_schema=False)
    assert len(file.getvalue()) < 1_000_000
    before = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(before)
    pa.set_memory_pool(pool)
    try:
        with pytest.raises(Unprocessable, match="Row 1 of"):
            read_file(file, "x.parquet")
    finally:
        pa.set_memory_pool(before)
    assert pool.max_memory() < 50_000_000


def test_a_missing_label_of_a_table_is_none() -> None:
    file = io.BytesIO()
    pq.write_table(pa.table({"text": ["a", "b"], "label": [math.nan, 1.0], "score": [math.nan, 2.0]}), file)
    first, second = read_file(file, "x.parquet")
    assert (first.label, first.score, second.label, second.score) == (None, None, "1", 2.0)
