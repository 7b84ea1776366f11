"""Work in shards: numbered pieces that leave a file each, whole or not at all, and the same whoever makes it.

So any number of processes share a work if they see the same files: each takes a shard that is neither there nor taken,
until all are there. One process alone does the same, and takes them all.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

from sae_core.progress import Progress, silent

_POLL_SECONDS = 0.2

Take = Callable[[int], AbstractContextManager[bool]]
"""Takes a shard for as long as the context lasts; gives False, at once, where another process has it."""


class ShardWork(Protocol):
    """A work that is done when the files of all its shards are there."""

    @property
    def sizes(self) -> Sequence[int]:
        """[shards] what each counts for in the progress."""

    def paths(self, shard: int, /) -> Sequence[Path]:
        """Return the files of a shard."""

    def made(self) -> set[int]:
        """Return the shards that are there."""

    def is_made(self, shard: int, /) -> bool:
        """True if this one is there."""

    def make(self, shard: int, progress: Callable[[int], None], /) -> None:
        """Write one; `progress` gets how much of its size is done."""


class MakeShards(Protocol):
    """Makes all shards of a work, alone or with other processes; as `make_shards`."""

    def __call__(self, work: ShardWork, /, *, progress: Progress = silent) -> None:
        """Return when all shards are there."""


@contextmanager
def take_any(shard: int) -> Iterator[bool]:
    """Take every shard: nobody else is at work."""
    yield True


def make_shards(work: ShardWork, *, take: Take = take_any, progress: Progress = silent) -> None:
    """Make the shards that nobody else makes; return when all are there. Those of a process that dies are made here.

    `progress` counts what others make, too.
    """
    while not help_make(work, take=take, progress=progress):
        time.sleep(_POLL_SECONDS)


def help_make(work: ShardWork, *, take: Take, progress: Progress = silent) -> bool:
    """Make shards until others have taken all that are left; return whether all are there."""
    total = sum(work.sizes)
    while True:
        made = work.made()
        done = sum(work.sizes[shard] for shard in made)
        progress(done, total)
        missing = [shard for shard in range(len(work.sizes)) if shard not in made]
        if not any(_make_one(work, shard, take, progress, done, total) for shard in missing):
            return not missing


def _make_one(work: ShardWork, shard: int, take: Take, progress: Progress, done: int, total: int) -> bool:
    """Make a shard, unless it is taken, or was made since it was looked for."""
    with take(shard) as is_mine:
        if not is_mine or work.is_made(shard):
            return False
        work.make(shard, lambda part: progress(min(done + part, total), total))
        return True
