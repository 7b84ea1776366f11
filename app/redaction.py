"""Take secrets out of text for a terminal, a log, the runs' page or an HTTP answer.

Messages of libraries are quoted there, and those may quote an address with its password, or a header with its token.
"""

import os
import re

HIDDEN = "…"

_SECRET_VARIABLE = re.compile(r"(TOKEN|SECRET|PASSWORD|API_KEY)$")
_USER_OF_URL = re.compile(r"(?<=://)[^\s/?#]*@")
_HUB_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{8,}")
_SHORTEST = 6
"""A shorter value may be an ordinary word, and is no secret."""


def redact(text: str) -> str:
    """Return `text` without secrets of the environment, hub tokens, and users and passwords in URLs."""
    for name, value in os.environ.items():
        if len(value) >= _SHORTEST and _SECRET_VARIABLE.search(name):
            text = text.replace(value, HIDDEN)
    return _HUB_TOKEN.sub(HIDDEN, _USER_OF_URL.sub(f"{HIDDEN}@", text))
