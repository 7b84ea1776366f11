"""Rows as CSV."""

import csv
import io

import pytest

from app.services.csv_text import csv_text


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠"])
def test_a_text_that_a_spreadsheet_may_run_gets_an_apostrophe(start: str) -> None:
    text = f'{start}cmd|"x"'
    assert list(csv.reader(io.StringIO(csv_text([[text]]), newline=""))) == [[f"'{text}"]]


def test_numbers_and_other_texts_stay_as_they_are() -> None:
    assert csv_text([[-1.5, -2, None, True, "a=b", " -x", ""]]) == "-1.5,-2,,True,a=b, -x,\r\n"


def test_texts_with_commas_quotes_and_lines_are_one_cell() -> None:
    row = ["a,b", 'say "x"', "two\nlines", "a\rb"]
    assert list(csv.reader(io.StringIO(csv_text([row]), newline=""))) == [row]
