import gzip
import json
from pathlib import Path

import datasets
import pytest

from sae_core.corpora import load_corpus
from sae_core.errors import CorpusError
from tests.tiny import CORPUS_FILE, documents


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_json_lines_keep_title_topic_and_other_columns(tmp_path: Path) -> None:
    rows = [{"text": "One.", "title": "First", "topic": "A", "url": "u1"}, {"text": "Two.", "url": "u2"}]
    file = write(tmp_path / "My notes.jsonl", "\n".join(json.dumps(row) for row in rows))
    corpus = load_corpus(file, licence="CC0", attribution="Someone")
    assert corpus.documents["text"][:] == ["One.", "Two."]
    assert corpus.documents["title"][:] == ["First", "My notes.jsonl, 2"]
    assert corpus.documents["topic"][:] == ["A", None]
    assert corpus.documents["url"][:] == ["u1", "u2"]
    assert (corpus.slug, corpus.title, corpus.source) == ("my-notes", "My notes.jsonl", "My notes.jsonl")
    assert (corpus.info.licence, corpus.info.attribution) == ("CC0", "Someone")


def test_every_kind_of_file_gives_the_same_documents(tmp_path: Path) -> None:
    texts = [document["text"] for document in documents()]
    table = datasets.Dataset.from_list(documents())
    table.to_parquet(tmp_path / "a.parquet")
    table.to_csv(tmp_path / "a.csv")
    write(tmp_path / "a.json", json.dumps(documents()))
    write(tmp_path / "a.jsonl.gz", gzip.compress(CORPUS_FILE.read_bytes()))
    hashes = set()
    for name in ("a.parquet", "a.csv", "a.json", "a.jsonl.gz"):
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
    assert [text.strip() for text in corpus.documents["text"]] == ["First\nparagraph.", "Second."]


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
    assert "extract" not in corpus.documents.column_names


def test_json_lines_of_objects_are_no_summaries(tmp_path: Path) -> None:
    rows = [{"meta": {"url": "u"}, "text": "One."}, {"meta": {"url": "v"}, "text": "Two."}]
    corpus = load_corpus(write(tmp_path / "a.json", "\n".join(json.dumps(row) for row in rows)))
    assert corpus.documents["text"][:] == ["One.", "Two."]
    assert corpus.documents["meta"][0] == {"url": "u"}


def test_another_column_can_hold_the_text(tmp_path: Path) -> None:
    file = write(tmp_path / "a.csv", "body,text\nthe body,not this\n")
    corpus = load_corpus(file, text_column="body")
    assert corpus.documents["text"][:] == ["the body"]
    assert "body" not in corpus.documents.column_names


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
        ("latin1.txt", b"caf\xe9", "cannot be read"),
        ("broken.jsonl", b"not json\n", "cannot be read"),
        ("nul.jsonl", b'{"text": "a\0b"}', "cannot be read"),
        ("broken.json", b"{", "cannot be read"),
        ("broken.parquet", b"not parquet", "cannot be read"),
        ("untitled.csv", b"title,body\na,b\n", "no column 'text'. Its columns are title, body"),
        ("numbers.jsonl", b'{"text": 1}\n{"text": 2}', "holds int64, not text"),
        ("notes.docx", b"text", "of no known kind"),
    ],
)
def test_unreadable_files_are_refused_in_one_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    with pytest.raises(CorpusError, match=message) as caught:
        load_corpus(write(tmp_path / name, content))
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")


def test_a_missing_file_is_refused() -> None:
    for source in ("/nowhere/a.jsonl", "a.txt"):
        with pytest.raises(CorpusError, match="There is no file"):
            load_corpus(source)


def test_a_data_set_that_cannot_be_downloaded_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(CorpusError, match="Check the name and the network"):
        load_corpus("nobody/no-such-data-set")
