"""Texts from files."""

import pytest

from app.errors import TooLarge, UserError
from app.services.text_files import texts_of


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
