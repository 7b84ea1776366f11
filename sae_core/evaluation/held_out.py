"""Snippets that nobody saw while labelling: which sequences are held out, and what a feature does in their windows.

A fifth of the sequences is held out, by a hash. Examples that people draw never come from those, so tests of labels
take theirs from nowhere else. The examples that an index stores come from all sequences: a test of a feature leaves out
those among them that show it.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int64
from numpy.typing import NDArray

from sae_core.store.activation_store import FeatureBlock

HELD_OUT_SHARE = 5
"""One sequence of this many is held out."""
WINDOW = 32
"""Positions per snippet, as in delphi (EleutherAI): windows of a sequence that do not overlap."""


def is_held_out(sequences_sha256: str, numbers: NDArray[np.integer]) -> Bool[np.ndarray, " sequence"]:
    """Return which sequences are held out, by a hash of their set and number: the same for all SAEs of a model.

    Args:
        sequences_sha256: of the set of sequences.
        numbers: of the sequences.
    """
    salt = bytes.fromhex(hashlib.sha256(sequences_sha256.encode()).hexdigest()[:32])
    hashes = (hashlib.blake2b(int(number).to_bytes(8, "little"), key=salt, digest_size=4) for number in numbers)
    drawn = np.fromiter((int.from_bytes(each.digest(), "little") for each in hashes), np.int64, len(numbers))
    held_out: Bool[np.ndarray, " sequence"] = drawn % HELD_OUT_SHARE == 0
    return held_out


def held_out_sequences(sequences_sha256: str, count: int, *, without: Iterable[int] = ()) -> NDArray[np.int64]:
    """Return the numbers of the held-out sequences among the first `count`, less those in `without`."""
    numbers = np.arange(count)
    return np.setdiff1d(numbers[is_held_out(sequences_sha256, numbers)], list(without))


@dataclass(frozen=True)
class Windows:
    """The windows in which a feature is active; window `i` of a sequence holds positions `i * size` and following."""

    number: Int64[np.ndarray, " window"]
    """Ascending: the sequence's number times `per_sequence`, plus the window's place in it."""
    peak: Float32[np.ndarray, " window"]
    """The strongest activation in it."""
    position: Int64[np.ndarray, " window"]
    """Position in the sequence of the strongest activation; the first of equals."""


@dataclass(frozen=True)
class WindowGrid:
    """How sequences of `length` positions are cut into windows."""

    length: int

    @property
    def size(self) -> int:
        """Positions per window; the last one of a sequence may have fewer."""
        return min(WINDOW, self.length)

    @property
    def per_sequence(self) -> int:
        """Windows per sequence."""
        return -(-self.length // self.size)

    def sequence(self, window: int) -> int:
        """Return the number of a window's sequence."""
        return window // self.per_sequence

    def start(self, window: int) -> int:
        """Return the position in its sequence at which a window starts."""
        return window % self.per_sequence * self.size

    def active(self, block: FeatureBlock) -> Windows:
        """Return the windows in which the one feature of `block` is active."""
        sequence, position = np.divmod(block.position.astype(np.int64), self.length)
        window = sequence * self.per_sequence + position // self.size
        strongest_first = np.lexsort((-block.value, window))
        numbers, first = np.unique(window[strongest_first], return_index=True)
        strongest = strongest_first[first]
        return Windows(numbers, block.value[strongest], position[strongest])

    def activations(self, block: FeatureBlock, window: int) -> dict[int, float]:
        """Return the activations of the one feature of `block` in a window, by place in it."""
        first = self.sequence(window) * self.length + self.start(window)
        stop = min(first + self.size, (self.sequence(window) + 1) * self.length)
        low, high = np.searchsorted(block.position, [first, stop])
        places = (block.position[low:high] - first).tolist()
        return dict(zip(places, block.value[low:high].tolist(), strict=True))
