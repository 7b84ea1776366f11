"""Output to what cannot take it: a terminal whose encoding lacks some characters, a stream that is closed, a full disk.

Characters degrade, messages are lost, and no command fails over them.
"""

import codecs
import io
import os
import sys
from typing import Any

_NAME = "seesae"
_SUBSTITUTES = str.maketrans(
    {"“": '"', "”": '"', "‘": "'", "’": "'", "…": "...", "–": "-", "—": "-", "−": "-", "·": ".", "•": "*", "×": "x"}
    | {"→": "->", "▸": ">", "✓": "+", "✗": "x", "≤": "<=", "≥": ">=", "≈": "~", "±": "+-", "\N{NO-BREAK SPACE}": " "}
    | {"━": "-", "╸": "-", "╺": "-", "\N{NARROW NO-BREAK SPACE}": " "}
)


def degrade_output() -> None:
    """Make standard output and standard error write what their encoding has, and substitutes for the rest.

    One that is closed leads nowhere. Standard error drops what it cannot write, such as after its terminal has gone.
    """
    _open_closed()
    codecs.register_error(_NAME, _substitute)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_NAME)


def _open_closed() -> None:
    """Give the numbers of closed streams to /dev/null, before a file or a socket takes them and gets the output."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or _writer(io.FileIO(1, "w", closefd=False), "utf-8")
    errors = _Droppable(2, "w", closefd=False)
    if sys.stderr is sys.__stderr__:  # and not what a test has put there
        sys.stderr = _writer(errors, sys.stderr.encoding if sys.stderr else "utf-8")


def _writer(raw: io.FileIO, encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, line_buffering=True)


class _Droppable(io.FileIO):
    """A file that drops what it cannot write."""

    def write(self, data: Any) -> int | None:  # type: ignore[override]
        try:
            return super().write(data)
        except OSError:
            return len(data)


def _substitute(error: UnicodeError) -> tuple[str, int]:
    """Replace signs by what they look like in ASCII; other characters, as in a path, by their codes."""
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end].translate(_SUBSTITUTES)
    return text.encode("ascii", "backslashreplace").decode(), error.end
