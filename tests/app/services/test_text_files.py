"""Texts from files."""

import json
import os
from pathlib import Path

import pytest

from app.errors import TooLarge, UserError
from app.services.text_files import check_text_file, read_text_file, texts_of


@pytest.mark.parametrize(
    ("name", "content", "texts"),
    [
        ("a.txt", "one\n\n  two \r\nthree", ["one", "  two ", "three"]),
        ("a", "=1\n", ["=1"]),
        ("a.JSONL", '"one"\n\n{"text": "two\\nlines", "id": 3}\n', ["one", "two\nlines"]),
        ("a.csv", 'id,text\n1,"two, with\na break"\n2,\n3\n4,x\n', ["two, with\na break", "x"]),
        ("a.txt", "", []),
        ("a.jsonl", "", []),
    ],
)
def test_texts_are_read_as_the_name_says(name: str, content: str, texts: list[str]) -> None:
    assert texts_of(content.splitlines(keepends=True), name, 10) == texts


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.jsonl", '"one"\n{"text": 3}', "Line 2 of a.jsonl"),
        ("a.jsonl", "[" * 100_000, "Line 1 of a.jsonl"),
        ("a.csv", "prompt\nx", "no column “text”"),
        ("a.csv", "", "no column “text”"),
        ("a.csv", "text\n" + "x" * 200_000, "not valid CSV near line 2"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_refused(name: str, content: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        texts_of(content.splitlines(keepends=True), name, 10)


def test_more_texts_than_the_limit_are_refused() -> None:
    assert len(texts_of(["x\n"] * 10, "a.txt", 10)) == 10
    with pytest.raises(TooLarge, match="more than 10 texts"):
        texts_of(["x\n"] * 11, "a.txt", 10)


def test_texts_of_a_scanned_file_are_characters_and_of_bounded_length(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"text": "half \\ud800"}\n"nul \\u0000"\n')
    assert read_text_file(file) == ["half ?", "nul \0"]
    file.write_text(json.dumps("x" * 100_001))
    with pytest.raises(UserError, match="has 100,001 characters; a text has at most 100,000"):
        read_text_file(file)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.json", b'["one"]', "unknown kind: bring a file that ends with .txt, .jsonl, .csv"),
        ("a.parquet", b"PAR1", "unknown kind"),
        ("a.txt", b"\xff", "not UTF-8"),
        ("a.txt", b"\n \n", "has no text"),
    ],
)
def test_a_file_that_cannot_be_scanned_is_refused(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=says):
        read_text_file(tmp_path / name)


def test_a_scanned_file_is_refused_for_its_size_or_kind_before_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "folder.txt").mkdir()
    with (tmp_path / "large.txt").open("wb") as file:
        file.truncate(10**9)
    os.mkfifo(tmp_path / "pipe.txt")
    for name, says in (
        ("folder", "no file"),
        ("large", "larger than 200 MB"),
        ("pipe", "no file"),
        ("none", "No such"),
    ):
        with pytest.raises(UserError, match=says):
            check_text_file(tmp_path / f"{name}.txt")
