"""Checks for values that Postgres cannot hold: NUL in text, NaN in JSON, numbers beyond its integers."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

MAX_INTEGER = 2**31 - 1


def storable(text: str) -> bool:
    """True if Postgres can hold or search for `text`: it has no NUL, and no half of a surrogate pair."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def clean_text(text: str) -> str:
    """Return `text` with U+FFFD for the characters that Postgres cannot hold."""
    return text if storable(text) else text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def clean_json(value: Any) -> Any:
    """Return `value` as JSON that Postgres can hold: null for NaN and infinities, U+FFFD in text."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return clean_text(value)
    if isinstance(value, Mapping):
        return {clean_text(str(key)): clean_json(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [clean_json(item) for item in value]
    return value


def is_id(number: int) -> bool:
    """True if `number` can be an id."""
    return 0 < number <= MAX_INTEGER
