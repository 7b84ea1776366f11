"""How long work reports where it is."""

from collections.abc import Mapping
from typing import Protocol


class Progress(Protocol):
    """Called by long work as it goes; an exception raised by it stops the work, which can be resumed."""

    def __call__(self, done: int, total: int, metrics: Mapping[str, float] | None = None, /) -> None:
        """Report that `done` of `total` units are finished, with measurements taken at this point."""


def silent(done: int, total: int, metrics: Mapping[str, float] | None = None, /) -> None:
    """Report to nobody."""
