"""Output on a terminal or a pipe whose encoding lacks some characters: they degrade, and no command fails over them."""

import codecs
import io
import sys

_NAME = "seesae"
_SUBSTITUTES = str.maketrans(
    {"“": '"', "”": '"', "‘": "'", "’": "'", "…": "...", "–": "-", "—": "-", "−": "-", "·": ".", "•": "*", "×": "x"}
    | {"→": "->", "▸": ">", "✓": "+", "✗": "x", "≤": "<=", "≥": ">=", "≈": "~", "±": "+-", "\N{NO-BREAK SPACE}": " "}
    | {"━": "-", "╸": "-", "╺": "-", "\N{NARROW NO-BREAK SPACE}": " "}
)


def degrade_output() -> None:
    """Make standard output and standard error write what their encoding has, and substitutes for the rest."""
    codecs.register_error(_NAME, _substitute)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_NAME)


def _substitute(error: UnicodeError) -> tuple[str, int]:
    """Replace signs by what they look like in ASCII; other characters, as in a path, by their codes."""
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end].translate(_SUBSTITUTES)
    return text.encode("ascii", "backslashreplace").decode(), error.end
