"""Shards that machines share by an object store: what it has is there, and who makes one gives it to the store."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from app.object_store import Check, ObjectStore
from sae_core.progress import Progress
from sae_core.shards import ShardWork, Take, make_shards

_LISTING_SECONDS = 2.0
"""For which a list of the store holds: shards never go while they are made, and one that is taken is asked for."""


class StoredShards:
    """A `ShardWork` whose files are those of the store."""

    def __init__(self, work: ShardWork, store: ObjectStore) -> None:
        self.sizes = work.sizes
        self._work, self._store = work, store
        self.folders = sorted({store.product(path) for shard in range(len(work.sizes)) for path in work.paths(shard)})
        """Folders of the products that the shards are of."""
        self._made: set[int] = set()
        self._listed = -_LISTING_SECONDS

    def paths(self, shard: int) -> Sequence[Path]:
        """Return the files of a shard."""
        return self._work.paths(shard)

    def made(self) -> set[int]:
        """Return the shards that are in the store, or were a moment ago."""
        if time.monotonic() - self._listed >= _LISTING_SECONDS:
            there = {folder / name for folder in self.folders for name in self._store.names(folder)}
            self._made |= {shard for shard in range(len(self.sizes)) if there.issuperset(self.paths(shard))}
            self._listed = time.monotonic()
        return set(self._made)

    def is_made(self, shard: int) -> bool:
        """True if this one is in the store."""
        if self._store.has(self.paths(shard)):
            self._made.add(shard)
        return shard in self._made

    def make(self, shard: int, progress: Callable[[int], None]) -> None:
        """Make one, and give it to the store."""
        self._work.make(shard, progress)
        self._store.push_files(self.paths(shard))
        self._made.add(shard)


def make_stored(work: ShardWork, store: ObjectStore, *, take: Take, progress: Progress, check: Check) -> None:
    """Make the shards of a work as `make_shards`, with other machines; fetch those that they made."""
    shards = StoredShards(work, store)
    for folder in shards.folders:
        folder.mkdir(parents=True, exist_ok=True)  # an empty one is not one that was removed
        store.push(folder, check)
    make_shards(shards, take=take, progress=progress)
    for folder in shards.folders:
        store.pull(folder, check)
