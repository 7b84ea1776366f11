"""Line ends of texts that people write: a browser sends CRLF for each, a program mostly LF."""

import re

_OTHER = re.compile(r"\r\n?")


def unix_lines(text: str) -> str:
    """Return `text` with LF for CRLF and CR, so that a limit of characters is the same for forms and programs."""
    return _OTHER.sub("\n", text)
