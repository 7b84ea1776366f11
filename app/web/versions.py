"""Versions of what several people may change, as `If-Match` and `ETag` carry them."""

import re

from app.errors import Unprocessable

_VERSION = re.compile(r'(?:W/)?("?)(\d{1,9})\1')


def read_version(if_match: str, what: str) -> int:
    """The version that `If-Match` names, as 3 or "3"; `what` says of what.

    Raises:
        Unprocessable: it names none.
    """
    match = _VERSION.fullmatch(if_match.strip())
    if match is None:
        raise Unprocessable(f'If-Match takes the version of the {what} that was read, such as "3".')
    return int(match[2])


def etag(version: int) -> str:
    """`ETag` of a version."""
    return f'"{version}"'
