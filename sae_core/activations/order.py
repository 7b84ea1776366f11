"""The order in which activations are trained on: a function of the seed alone, so that any batch can be jumped to."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Int64

from sae_core.corpora import Sequences


def training_positions(sequences: Sequences) -> Int64[np.ndarray, "token"]:
    """Flat positions (sequence · length + position) of the counted tokens to train on, in order."""
    return np.flatnonzero(sequences.counted & ~sequences.is_validation()[:, None])


def validation_positions(sequences: Sequences) -> Int64[np.ndarray, "token"]:
    """Flat positions of the counted tokens that are held out from training, in order."""
    return np.flatnonzero(sequences.counted & sequences.is_validation()[:, None])


def shuffled_batches(n: int, batch_size: int, *, seed: int, skip: int = 0) -> Iterator[Int64[np.ndarray, "batch"]]:
    """Yield endless batches of the numbers 0 to n - 1, in a new random order each epoch.

    The epochs' orders, laid end to end, are cut into batches: each number comes once per epoch, and each batch is full.
    Starting after `skip` batches costs no more than starting at the first.
    """
    first = skip * batch_size
    epoch, offset = divmod(first, n)
    order = permutation(n, seed, epoch)
    while True:
        parts = []
        missing = batch_size
        while missing:
            if offset == n:
                epoch, offset = epoch + 1, 0
                order = permutation(n, seed, epoch)
            part = order[offset : offset + missing]
            parts.append(part)
            offset += len(part)
            missing -= len(part)
        yield np.concatenate(parts)


def permutation(n: int, *seeds: int) -> Int64[np.ndarray, "n"]:
    """Return a random order of the numbers 0 to n - 1, the same for the same seeds."""
    return np.random.default_rng(seeds).permutation(n)
