"""Versions for optimistic concurrency, in `If-Match` and `ETag`."""

import re

from app.errors import Unprocessable

_VERSION = re.compile(r'(?:W/)?("?)(\d{1,9})\1')


def read_version(if_match: str, what: str) -> int:
    """Return the version in `If-Match`, as 3 or "3"; `what` names the resource in the error.

    Raises:
        Unprocessable: the header is not a version.
    """
    match = _VERSION.fullmatch(if_match.strip())
    if match is None:
        raise Unprocessable(f'If-Match takes the version of the {what} that was read, such as "3".')
    return int(match[2])


def etag(version: int) -> str:
    """Return the `ETag` of a version."""
    return f'"{version}"'
