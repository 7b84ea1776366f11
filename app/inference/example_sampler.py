"""Sample examples from an activation store: any part of a feature's range, beyond the few that the index keeps."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool
from numpy.typing import NDArray

from app.queries.examples import StoredExample
from sae_core.evaluation.held_out import is_held_out
from sae_core.store.activation_store import ActivationStore, FeatureBlock


@dataclass(frozen=True, slots=True)
class ActivationRange:
    """Activations of one feature in (low, high], as a histogram's bins hold them; in one sequence, if it is given."""

    feature: int
    low: float
    high: float
    sequence: int | None = None


def sample_examples(
    store: ActivationStore, wanted: ActivationRange, *, length: int, limit: int, seed: int
) -> tuple[int, list[StoredExample]]:
    """Return the number of activations in the range, and a random sample of one per sequence, strongest first.

    Sequences that are held out for blind tests of labels are neither counted nor sampled.

    Args:
        store: of the index.
        wanted: the range.
        length: positions per sequence.
        limit: largest number of examples.
        seed: equal seeds give the same sample.
    """
    block = store.block(wanted.feature, wanted.feature + 1)
    sequence = block.position // length
    matching = (block.value > wanted.low) & (block.value <= wanted.high)
    if wanted.sequence is not None:
        matching &= sequence == wanted.sequence
    numbers, place = np.unique(sequence[matching], return_inverse=True)
    matching[matching] = ~is_held_out(store.sequences_sha256, numbers)[place]
    places = np.flatnonzero(matching)
    order = np.random.default_rng([seed, wanted.feature]).permutation(places)
    if wanted.sequence is not None:
        order = places[np.argsort(-block.value[places], kind="stable")]
    _, first = np.unique(sequence[order], return_index=True)
    drawn = order[np.sort(first)][:limit]
    strongest_first = drawn[np.argsort(-block.value[drawn], kind="stable")]
    return len(places), list(_examples(block, sequence, strongest_first, length))


def _examples(
    block: FeatureBlock, sequence: NDArray[np.int32], places: NDArray[np.int64], length: int
) -> Iterator[StoredExample]:
    for place in places:
        within: Bool[np.ndarray, " nonzero"] = sequence == sequence[place]
        yield StoredExample(
            sequence=int(sequence[place]),
            position=int(block.position[place] % length),
            activation=float(block.value[place]),
            positions=(block.position[within] % length).tolist(),
            values=block.value[within].tolist(),
        )
