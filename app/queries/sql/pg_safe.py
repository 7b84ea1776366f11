"""What Postgres cannot hold, kept from reaching it: NUL in text, NaN in JSON, numbers beyond its integers."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

MAX_INTEGER = 2**31 - 1


def storable(text: str) -> bool:
    """Whether Postgres can hold or look for `text`: no NUL, and no half of a surrogate pair."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def clean_text(text: str) -> str:
    """`text` with U+FFFD for what Postgres cannot hold."""
    return text if storable(text) else text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def clean_json(value: Any) -> Any:
    """`value` as JSON that Postgres can hold: null for NaN and infinities, U+FFFD in text."""
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
    """Whether `number` can be an id at all."""
    return 0 < number <= MAX_INTEGER
