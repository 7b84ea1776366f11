"""Models and SAEs that are kept in memory: the few that were used last."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class LRUCache(Generic[Key, Value]):
    """At most `size` values; the one that was not used for longest goes first. Not for several threads at once."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._values: OrderedDict[Key, Value] = OrderedDict()

    def get(self, key: Key, load: Callable[[], Value]) -> Value:
        """The value of `key`, loaded if it is not here; room is made first, because memory is scarce."""
        if key not in self._values:
            while len(self._values) >= self.size:
                self._values.popitem(last=False)
            self._values[key] = load()
        self._values.move_to_end(key)
        return self._values[key]

    def clear(self) -> None:
        """Let go of everything."""
        self._values.clear()
