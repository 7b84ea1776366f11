"""Texts that people write: line ends, and what stands at their ends without being seen."""

import re

_OTHER_LINE_ENDS = re.compile(r"\r\n?")
_INVISIBLE = r"[\s\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]+"
"""White space, zero-width characters and marks of direction."""
_ENDS = re.compile(f"^{_INVISIBLE}|{_INVISIBLE}$")


def unix_lines(text: str) -> str:
    """Return `text` with LF for CRLF and CR, so that a limit of characters is the same for forms and programs."""
    return _OTHER_LINE_ENDS.sub("\n", text)


def trim(text: str) -> str:
    """Return `text` without what cannot be seen at its ends: '' if nothing of it can be seen."""
    return _ENDS.sub("", text)


def one_line(text: str) -> str:
    """Return `text` trimmed, with one space for each run of white space: a name as people read it."""
    return " ".join(trim(text).split())
