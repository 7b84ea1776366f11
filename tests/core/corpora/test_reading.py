import gzip
import json
import tracemalloc
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sae_core.corpora import load_corpus
from sae_core.errors import CorpusError
from tests.tiny import CORPUS_FILE, documents


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_only_text_title_and_topic_are_read(tmp_path: Path) -> None:
    rows = [
        {"text": "One.", "title": "First", "topic": "A", "url": "u1", "score": 1},
        {"text": "Two.", "score": ["a column that nobody asked for may hold anything"]},
    ]
    file = write(tmp_path / "My notes.jsonl", "\n".join(json.dumps(row) for row in rows))
    corpus = load_corpus(file, licence="CC0", attribution="Someone")
    assert corpus.documents.column_names == ["text", "title", "topic"]
    assert corpus.documents["text"][:] == ["One.", "Two."]
    assert corpus.documents["title"][:] == ["First", "My notes.jsonl, 2"]
    assert corpus.documents["topic"][:] == ["A", None]
    assert (corpus.slug, corpus.title, corpus.source) == ("my-notes", "My notes.jsonl", "My notes.jsonl")
    assert (corpus.info.licence, corpus.info.attribution) == ("CC0", "Someone")


def write_arrow(table: pa.Table, path: Path) -> None:
    with pa.ipc.new_file(str(path), table.schema) as writer:
        writer.write_table(table)


def test_every_kind_of_file_gives_the_same_documents(tmp_path: Path) -> None:
    texts = [document["text"] for document in documents()]
    table = datasets.Dataset.from_list(documents())
    table.to_parquet(tmp_path / "a.parquet")
    table.to_csv(tmp_path / "a.csv")
    table.to_csv(tmp_path / "a.TSV", sep="\t")
    write_arrow(table.data.table, tmp_path / "a.arrow")
    write(tmp_path / "a.json", json.dumps(documents()))
    write(tmp_path / "a.jsonl.gz", gzip.compress(CORPUS_FILE.read_bytes()))
    hashes = set()
    for name in ("a.parquet", "a.csv", "a.TSV", "a.arrow", "a.json", "a.jsonl.gz"):
        corpus = load_corpus(tmp_path / name)
        assert corpus.documents["text"][:] == texts
        assert corpus.slug == "a"
        hashes.add(corpus.sha256)
    assert hashes == {load_corpus(CORPUS_FILE).sha256}


def test_the_hash_is_of_the_contents(tmp_path: Path) -> None:
    def sha256(text: str, title: str) -> str:
        return load_corpus(write(tmp_path / "a.jsonl", json.dumps({"text": text, "title": title}))).sha256

    assert sha256("one", "t") == sha256("one", "t")
    assert len({sha256("one", "t"), sha256("two", "t"), sha256("one", "u"), sha256("onet", "")}) == 4


def test_plain_text_is_parted_into_paragraphs(tmp_path: Path) -> None:
    corpus = load_corpus(write(tmp_path / "book.txt", "First\nparagraph.\n\n\n\nSecond."))
    assert corpus.documents["text"][:] == ["First\nparagraph.", "Second."]
    windows = load_corpus(write(tmp_path / "book.txt", b"\xef\xbb\xbfFirst\r\nparagraph.\r\n \r\n\r\nSecond.\r\n"))
    assert windows.sha256 == corpus.sha256


def test_encyclopaedia_summaries_are_documents(tmp_path: Path) -> None:
    entries = {
        "Cat": {"title": "Cat", "extract": "A cat is an animal.", "description": "animal", "topic": "Biology"},
        "Nothing": {"title": "Nothing", "extract": "", "description": None, "topic": "Philosophy"},
        "Dog": {"extract": "A dog barks.", "topic": "Biology"},
    }
    corpus = load_corpus(write(tmp_path / "summaries.json", json.dumps(entries)))
    assert corpus.documents["title"][:] == ["Cat", "Dog"]
    assert corpus.documents["text"][:] == ["A cat is an animal.", "A dog barks."]
    assert corpus.documents["topic"][:] == ["Biology", "Biology"]


def test_json_lines_of_objects_are_no_summaries(tmp_path: Path) -> None:
    rows = [{"meta": {"url": "u"}, "text": "One."}, {"meta": {"url": "v"}, "text": "Two."}]
    corpus = load_corpus(write(tmp_path / "a.json", "\n".join(json.dumps(row) for row in rows)))
    assert corpus.documents["text"][:] == ["One.", "Two."]


def test_another_column_can_hold_the_text(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", "body,text\nthe body,not this\n")
    corpus = load_corpus(file, text_column="body")
    assert corpus.documents["text"][:] == ["the body"]
    assert corpus.documents.column_names == ["text", "title", "topic"]
    assert (corpus.slug, corpus.title, corpus.source) == ("a-body", "a.csv (body)", "a.csv")
    assert corpus.sha256 != load_corpus(file).sha256


def test_documents_without_text_are_left_out_and_nul_is_removed(tmp_path: Path) -> None:
    rows = [{"text": "a\0b", "title": "t\0"}, {"text": ""}, {"text": None}, {"text": " \n\0"}, {"text": "c"}]
    corpus = load_corpus(write(tmp_path / "a.jsonl", "\n".join(json.dumps(row) for row in rows)))
    assert corpus.documents["text"][:] == ["ab", "c"]
    assert corpus.documents["title"][0] == "t"
    text = load_corpus(write(tmp_path / "a.txt", "one\0 two"))
    assert text.documents["text"][:] == ["one two"]


def test_a_line_of_ten_megabytes_is_read_whole(tmp_path: Path) -> None:
    line = "word " * 2_000_000
    for name, content in {"a.jsonl": json.dumps({"text": line}), "a.txt": line}.items():
        corpus = load_corpus(write(tmp_path / name, content))
        assert [len(text) for text in corpus.documents["text"]] == [len(line)]


def test_only_so_many_documents_are_read(tmp_path: Path) -> None:
    assert load_corpus(CORPUS_FILE, max_documents=3).documents["title"][:] == [d["title"] for d in documents()[:3]]
    assert len(load_corpus(CORPUS_FILE, max_documents=300).documents) == 20


def test_the_cache_is_where_the_caller_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "elsewhere")
    corpus = load_corpus(CORPUS_FILE, cache=tmp_path / "cache")
    assert list((tmp_path / "cache").rglob("*.arrow"))
    assert corpus.sha256 == load_corpus(CORPUS_FILE).sha256
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.jsonl", b"", "is empty"),
        ("empty.txt", b"", "is empty"),
        ("blank.jsonl", b'{"text": "  "}\n{"text": null}', "holds no text"),
        ("latin1.txt", b"ab\n\ncaf\xe9\n", "Line 3 of latin1.txt is not valid UTF-8"),
        ("latin1.jsonl", b'{"text": "a"}\n{"text": "caf\xe9"}', "Line 2 of latin1.jsonl is not valid UTF-8"),
        ("latin1.csv", b"text\na\n\xe9\n", "Line 3 of latin1.csv is not valid UTF-8"),
        ("utf16.txt", "text".encode("utf-16"), "Line 1 of utf16.txt is not valid UTF-8"),
        ("half.jsonl", b'{"text": "a"}\n{"text": "\\ud83d"}', r"Row 2 of half.jsonl has half of a character"),
        ("list.jsonl", b'{"text": "a"}\n{"text": ["b"]}', "Row 2 of list.jsonl holds a list in column 'text'"),
        ("list.json", b'[{"text": "a"}, {"text": {"b": 1}}]', "Row 2 of list.json holds an object in column 'text'"),
        ("ids.jsonl", b'{"input_ids": [1, 2]}', "no column 'text', but token ids in 'input_ids'"),
        ("values.json", b'[{"text": "a"}, "b"]', "Row 2 of values.json is not an object"),
        ("ragged.csv", b"text,title\na,b\nc,d,e\n", "line 3 of ragged.csv has 3 fields, and the first row 2"),
        ("quote.csv", b'text\n"never closed\n', "line 2: unexpected end of data"),
        ("twice.csv", b"text,text\na,b\n", "two columns 'text'"),
        ("damaged.jsonl.gz", gzip.compress(b'{"text": "a"}' * 99, mtime=0)[:-9], "cannot be read"),
        ("damaged.jsonl.zst", b"not zstd", "cannot be read"),
        ("broken.jsonl", b'{"text": "a"}\nnot json\n', "line 2 is not valid JSON"),
        ("nul.jsonl", b'{"text": "a\0b"}', "line 1 is not valid JSON"),
        ("broken.json", b"{", "line 1 is not valid JSON"),
        ("broken.parquet", b"not parquet", "cannot be read"),
        ("untitled.csv", b"title,body\na,b\n", "no column 'text'. Its columns are title, body"),
        ("numbers.jsonl", b'{"text": 1}\n{"text": 2}', "Row 1 of numbers.jsonl holds the value 1 in column"),
        ("notes.docx", b"text", "of no known kind"),
    ],
)
def test_unreadable_files_are_refused_in_one_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with pytest.raises(CorpusError, match=message) as caught:
        load_corpus(write(tmp_path / name, content))
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")


def test_a_column_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    table = datasets.Dataset.from_dict({"content": ["a"], "ids": [[1, 2]], "when": [0.5]})
    table.to_parquet(tmp_path / "a.parquet")
    write_arrow(table.data.table, tmp_path / "a.arrow")
    table.to_json(tmp_path / "a.jsonl")
    for name in ("a.parquet", "a.arrow", "a.jsonl"):
        with pytest.raises(CorpusError, match=r"Its columns are content, ids, when: .* as `text_column`"):
            load_corpus(tmp_path / name)
        with pytest.raises(CorpusError, match="holds token ids"):
            load_corpus(tmp_path / name, text_column="ids")
        assert load_corpus(tmp_path / name, text_column="content").documents["text"][:] == ["a"]
    with pytest.raises(CorpusError, match=r"columns are 'a\\nb', c"):
        load_corpus(write(tmp_path / "b.jsonl", '{"a\\nb": 1, "c": 2}'))
    twice = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    write_arrow(twice, tmp_path / "twice.arrow")
    pq.write_table(twice, tmp_path / "twice.parquet")
    for name in ("twice.arrow", "twice.parquet"):
        with pytest.raises(CorpusError, match="two columns 'text'"):
            load_corpus(tmp_path / name)
    with pytest.raises(CorpusError, match="holds double in column 'when', not text"):
        load_corpus(tmp_path / "a.parquet", text_column="when")


def test_dates_and_numbers_stay_as_they_are_written(tmp_path: Path) -> None:
    titles = ["2024-01-01", "2024-01-02T03:04:05Z", "1.10", "007", "NA", "true"]
    rows = [{"text": "12.50", "title": title, "topic": "2024-02-01"} for title in titles]
    write(tmp_path / "a.jsonl", "\n".join(json.dumps(row) for row in rows))
    write(tmp_path / "a.json", json.dumps(rows))
    write(tmp_path / "a.csv", "text,title,topic\n" + "".join(f"12.50,{title},2024-02-01\n" for title in titles))
    for name in ("a.jsonl", "a.json", "a.csv"):
        documents = load_corpus(tmp_path / name).documents
        assert documents["title"][:] == titles
        assert set(documents["topic"]) == {"2024-02-01"}
        assert set(documents["text"]) == {"12.50"}


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    contents = {
        "a.txt": "One.\n\nTwo.",
        "a.jsonl": '{"text": "One."}\n{"text": "Two."}',
        "a.json": '{"A": {"extract": "One."}, "B": {"extract": "Two."}}',
        "a.csv": "text\nOne.\nTwo.\n",
        "a.tsv": "text\nOne.\nTwo.\n",
    }
    for name, content in contents.items():
        plain = load_corpus(write(tmp_path / name, content))
        assert load_corpus(write(tmp_path / name, "\ufeff" + content)).sha256 == plain.sha256
        assert plain.documents["text"][:] == ["One.", "Two."]


def test_an_edited_file_is_read_again(tmp_path: Path) -> None:
    for text in ("before", "after"):
        corpus = load_corpus(write(tmp_path / "a.txt", text), cache=tmp_path / "cache")
        assert corpus.documents["text"][:] == [text]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.txt", "a.parquet"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, name: str) -> None:
    def peak(rows: int) -> int:
        write_rows(tmp_path / name, rows)
        tracemalloc.start()
        pool = pa.default_memory_pool()
        before = pool.bytes_allocated()
        corpus = load_corpus(tmp_path / name, cache=tmp_path / "cache")
        assert len(corpus.documents) == rows
        held = max(0, pool.bytes_allocated() - before)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most + held

    peak(1_000)
    assert peak(12_000) < peak(4_000) + 3_000_000


def write_rows(path: Path, rows: int) -> None:
    text = "word " * 200
    if path.suffix == ".parquet":
        datasets.Dataset.from_dict({"text": [text] * rows, "other": [text] * rows}).to_parquet(path)
        return
    first, row, parting, last = {
        ".jsonl": ("", json.dumps({"text": text}), "\n", "\n"),
        ".json": ("[", json.dumps({"text": text}), ",\n", "]"),
        ".csv": ("text,other\n", f'"{text}",1', "\n", "\n"),
        ".txt": ("", text, "\n\n", "\n"),
    }[path.suffix]
    path.write_text(first + parting.join([row] * rows) + last)


def test_a_missing_file_is_refused() -> None:
    for source in (
        "/nowhere/a.jsonl",
        "a.txt",
        "a.TSV.gz",
        "./texts",
        "~/no such texts",
        "a/b/c",
        "a" * 300 + ".txt",
        "/\0",
    ):
        with pytest.raises(CorpusError, match="There is no file"):
            load_corpus(source)


def test_a_data_set_that_cannot_be_downloaded_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(CorpusError, match="Check the name and the network"):
        load_corpus("nobody/no-such-data-set")
