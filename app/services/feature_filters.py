"""Filters of features as words: those of the feature list's query string, for what is stored or pasted."""

import math
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from app.errors import Unprocessable
from app.queries.feature_list import FeatureFilter

_NUMBERS = ("min_density", "max_density", "min_max", "max_max")
_TEXTS = ("q", "health", "token", "promotes", "topic", "label", "author", "category", "effect")
_ORDER = ("sort", "view", "descending", "cursor", "limit", "format")
"""Words of the address that say how the list is shown, and choose no features."""


def read_filter(words: Mapping[str, str]) -> FeatureFilter:
    """Return the filter that these words make.

    Raises:
        Unprocessable: a word is not known, or a bound is not a number.
    """
    values: dict[str, Any] = {}
    for name, value in words.items():
        if name in _NUMBERS and value:
            values[name] = _number(name, value)
        elif name in _TEXTS and value.strip():
            values[name] = value if name in ("token", "promotes") else value.strip()
        elif name not in (*_NUMBERS, *_TEXTS, *_ORDER):
            raise Unprocessable(
                f"Features cannot be filtered by “{name[:40]}”: use {', '.join((*_TEXTS, *_NUMBERS))}, as the feature "
                "list's address does."
            )
    return FeatureFilter(**values)


def words_of(address: str) -> dict[str, str]:
    """Return the words of a filter from an address of the feature list, or from its query string alone."""
    query = urlsplit(address.strip()).query or address.strip().removeprefix("?")
    return {name: value for name, value in parse_qsl(query) if name not in _ORDER}


def _number(name: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise Unprocessable(f"{name} is a number, such as 0.001; “{value[:40]}” is not.")
    return number
