"""Sequences that show a feature at work: the strongest, and a random sample of each band of its activations."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sae_core.statistics.moments import band_of
from sae_core.statistics.spec import BANDS, EXAMPLES_PER_BAND, TOP_EXAMPLES
from sae_core.statistics.types import Examples
from sae_core.store import segments
from sae_core.store.activation_store import FeatureBlock
from sae_core.store.segments import Indices

DRAWN = BANDS * EXAMPLES_PER_BAND
"""Examples drawn per feature. A band needs no more candidates: even if all other draws take sequences of its
candidates, one is left."""
NONE = -1
"""No candidate, or none left."""


@dataclass(frozen=True)
class _SequenceRuns:
    """The runs of a block's non-zeros that are of one feature and lie in one sequence."""

    indptr: Indices
    """[runs + 1] bounds of the runs."""
    run: NDArray[np.int32]
    """[non-zeros] the run of each."""
    sequence: NDArray[np.int32]
    """[non-zeros] the sequence of each."""


def _sequence_runs(block: FeatureBlock, length: int) -> _SequenceRuns:
    sequence = block.position // np.int32(length)
    starts = segments.run_starts(block.row, sequence)
    indptr = np.append(starts, len(sequence))
    return _SequenceRuns(indptr, np.repeat(np.arange(len(starts), dtype=np.int32), np.diff(indptr)), sequence)


def choose_examples(block: FeatureBlock, strongest_first: Indices, length: int, seed: int) -> Examples:
    """Choose the top examples (band 0) and five from each band of every feature of the block.

    Band 0: the 20 sequences with the highest maximum, one entry per sequence, ties by (sequence, position).

    Bands 1 to 5: each band's activations are shuffled, by `draw_keys`. In five rounds, each from band 5 down to band 1,
    a band gives the first activation of its shuffle whose sequence was not yet drawn for this feature. So a sequence
    comes once at most in the bands, and a feature active in fewer than 25 sequences has fewer examples, spread over
    the bands.

    Args:
        block: activations of some features.
        strongest_first: its non-zeros in order of `order_by_strength`.
        length: positions in a sequence.
        seed: of the draw; the result depends on it and on the feature alone, not on blocks or shards.
    """
    runs = _sequence_runs(block, length)
    rank = np.empty(len(strongest_first), np.int64)
    rank[strongest_first] = np.arange(len(strongest_first))
    top, top_rank = _top(block, runs, strongest_first, rank)
    drawn, drawn_band, drawn_rank = _draw(block, runs, rank, seed)
    chosen = np.concatenate([top, drawn])
    band = np.concatenate([np.zeros(len(top), np.int8), drawn_band])
    within = np.concatenate([top_rank, drawn_rank])
    order = np.lexsort((within, band, block.row[chosen]))
    return _gather(block, runs, chosen[order], band[order], within[order], length)


def _top(
    block: FeatureBlock, runs: _SequenceRuns, strongest_first: Indices, rank: Indices
) -> tuple[Indices, NDArray[np.int16]]:
    """Return the indices of the strongest activation of each of the 20 strongest runs, and their ranks."""
    strongest_of_run = np.sort(segments.minimum(rank, runs.indptr))
    index = strongest_first[strongest_of_run]
    within = segments.rank_in_row(block.row[index], block.n_features)
    kept = within < TOP_EXAMPLES
    return index[kept], within[kept].astype(np.int16)


def _draw(
    block: FeatureBlock, runs: _SequenceRuns, rank: Indices, seed: int
) -> tuple[Indices, NDArray[np.int8], NDArray[np.int16]]:
    """Draw from the bands of all features at once; return the indices of the activations, their bands and rounds.

    In each step, one band of every feature gives its first candidate that is left. Then all candidates in the same
    sequence are struck out, in all bands of that feature.
    """
    candidates = _candidates(block, runs, rank, seed)
    exists = candidates != NONE
    sequence = np.full(candidates.shape, NONE, np.int32)
    """[features, bands, candidates] the sequence of each candidate; `NONE` once it is struck out."""
    sequence[exists] = runs.sequence[candidates[exists]]
    feature = np.arange(block.n_features)
    picks: list[tuple[Indices, int, int]] = []
    for round_ in range(EXAMPLES_PER_BAND):
        for band in range(BANDS, 0, -1):
            first_left = (sequence[:, band - 1] != NONE).argmax(axis=1)
            drawn = sequence[feature, band - 1, first_left]
            picks.append((candidates[feature, band - 1, first_left][drawn != NONE], band, round_))
            np.putmask(sequence, sequence == drawn[:, None, None], NONE)
    sizes = [len(index) for index, _, _ in picks]
    return (
        np.concatenate([index for index, _, _ in picks]),
        np.repeat(np.array([band for _, band, _ in picks], np.int8), sizes),
        np.repeat(np.array([round_ for _, _, round_ in picks], np.int16), sizes),
    )


def _candidates(block: FeatureBlock, runs: _SequenceRuns, rank: Indices, seed: int) -> Indices:
    """Return [features, bands, 25] the first activations of each shuffled band, by index; then `NONE`.

    There is one per sequence.
    """
    count = block.count[block.row]
    band = band_of(rank - block.indptr[block.row], count) - 1
    key = draw_keys(seed, block.start + block.row.astype(np.uint64), block.position)
    # Of a run's activations in one band, only the first in the shuffle can be drawn.
    code = runs.run.astype(np.int64) * BANDS + band
    first = np.full(len(runs.indptr) * BANDS, np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(first, code, key)
    index = np.flatnonzero(first[code] == key)
    cell = block.row[index].astype(np.int64) * BANDS + band[index]
    order = segments.stable_order(cell, (key[index] >> np.uint64(32)).astype(np.uint32))
    index, cell = index[order], cell[order]
    within = segments.rank_in_row(cell, block.n_features * BANDS)
    kept = within < DRAWN
    candidates = np.full((block.n_features * BANDS, DRAWN), NONE, np.int64)
    candidates[cell[kept], within[kept]] = index[kept]
    return candidates.reshape(block.n_features, BANDS, DRAWN)


def draw_keys(seed: int, feature: NDArray[np.uint64], position: NDArray[np.int32]) -> NDArray[np.uint64]:
    """Return a number per activation, by which a band is shuffled: 32 random bits, then the position.

    The random bits are SplitMix64's (Steele, Lea and Flood 2014) of seed, feature and position, so that any part of
    the store draws the same, in any order.
    """
    token = position.astype(np.uint64)
    with np.errstate(over="ignore"):
        random = _split_mix(_split_mix(np.uint64(seed) + _split_mix(feature)) + token)
    return (random & np.uint64(0xFFFFFFFF00000000)) | token


def _split_mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _gather(
    block: FeatureBlock,
    runs: _SequenceRuns,
    chosen: Indices,
    band: NDArray[np.int8],
    rank: NDArray[np.int16],
    length: int,
) -> Examples:
    """Join the chosen activations with all others of their runs."""
    run = runs.run[chosen]
    sizes = np.diff(runs.indptr)[run]
    entries = segments.gather_ranges(runs.indptr[run], sizes)
    return Examples(
        feature=(block.start + block.row[chosen]).astype(np.int32),
        band=band,
        rank=rank,
        sequence=runs.sequence[chosen],
        position=(block.position[chosen] % length).astype(np.int16),
        activation=block.value[chosen],
        indptr=segments.bounds(sizes),
        positions=(block.position[entries] % length).astype(np.int16),
        values=block.value[entries],
    )


def concatenate_examples(parts: Sequence[Examples]) -> Examples:
    """Join the examples of consecutive blocks of features."""
    sizes = np.concatenate([np.diff(part.indptr) for part in parts])
    names = ("feature", "band", "rank", "sequence", "position", "activation", "positions", "values")
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    return Examples(indptr=segments.bounds(sizes), **joined)
