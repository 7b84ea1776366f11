"""Rows as CSV, for spreadsheets as for programs: every file and download of this kind is written here."""

import csv
import io
from collections.abc import Iterable

_RUN_BY_SPREADSHEETS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""First characters of a cell that a spreadsheet may run, after OWASP's "CSV injection"."""


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """Return rows as lines of CSV, which end with CR LF as RFC 4180 has it.

    A text that a spreadsheet may run gets an apostrophe in front, so that it stays text; numbers stay numbers.
    """
    text = io.StringIO()
    csv.writer(text).writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue()


def _cell(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(_RUN_BY_SPREADSHEETS) else value


def plain_cell(text: str) -> str:
    """Return a cell of CSV as it was before `csv_text` put an apostrophe in front."""
    return text[1:] if text.startswith("'") and text[1:].startswith(_RUN_BY_SPREADSHEETS) else text
