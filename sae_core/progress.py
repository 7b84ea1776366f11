"""Progress reports of long work."""

from collections.abc import Mapping
from typing import Protocol


class Progress(Protocol):
    """Called by long work as it goes; an exception raised by it stops the work, which can be resumed."""

    def __call__(self, done: int, total: int, metrics: Mapping[str, float] | None = None, /) -> None:
        """Report that `done` of `total` units are finished, with measurements taken at this point."""


def silent(done: int, total: int, metrics: Mapping[str, float] | None = None, /) -> None:
    """Report to nobody."""


def subprogress(progress: Progress, number: int, of: int) -> Progress:
    """Report the `number`-th of `of` pieces of work of equal size, counted from 0."""

    def report(done: int, total: int, metrics: Mapping[str, float] | None = None, /) -> None:
        progress(number * total + done, of * total, metrics)

    return report


def rescaled(progress: Progress, size: int, start: float = 0.0, stop: float = 1.0) -> Progress:
    """Report work of any size as the part from `start` to `stop` of a work of `size` units."""

    def report(done: int, total: int, metrics: Mapping[str, float] | None = None, /) -> None:
        progress(int(size * (start + (stop - start) * done / max(total, 1))), size, metrics)

    return report
