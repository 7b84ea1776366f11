"""Which sequences show a feature at work: the strongest, and a fair draw from each band of its activations."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sae_core.statistics.moments import band_of
from sae_core.statistics.types import BANDS, EXAMPLES_PER_BAND, TOP_EXAMPLES, Examples
from sae_core.store import segments
from sae_core.store.activation_store import FeatureBlock
from sae_core.store.segments import Indices

DRAWN = BANDS * EXAMPLES_PER_BAND
"""Examples drawn for a feature. A band needs no more candidates than this: the others take one fewer at most."""


@dataclass(frozen=True)
class _SequenceRuns:
    """The runs of a block's non-zeros that lie in one sequence: a feature's visit to that sequence."""

    indptr: Indices
    of: NDArray[np.int32]
    """[non-zeros] the visit of each."""
    sequence: NDArray[np.int32]
    """[non-zeros]"""


def _sequence_runs(block: FeatureBlock, length: int) -> _SequenceRuns:
    sequence = block.position // np.int32(length)
    starts = segments.run_starts(block.row, sequence)
    indptr = np.append(starts, len(sequence))
    return _SequenceRuns(indptr, np.repeat(np.arange(len(starts), dtype=np.int32), np.diff(indptr)), sequence)


def choose_examples(block: FeatureBlock, strongest_first: Indices, length: int, seed: int) -> Examples:
    """Choose the top examples (band 0) and five from each band of every feature of the block.

    Band 0: the 20 sequences with the highest maximum, one entry a sequence, ties by (sequence, position).

    Bands 1 to 5: each band's activations are shuffled, by `draw_keys`. In five rounds, each from band 5 down to band 1,
    a band gives the first activation of its shuffle whose sequence was not yet drawn for this feature. So no sequence
    comes twice in the bands, and a feature active in fewer than 25 sequences has fewer examples, spread over the bands.

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
    """Indices of the strongest activation of each of the 20 strongest visits, and their ranks."""
    strongest_of_visit = np.sort(segments.minimum(rank, runs.indptr))
    index = strongest_first[strongest_of_visit]
    within = segments.rank_in_row(block.row[index], block.n_features)
    kept = within < TOP_EXAMPLES
    return index[kept], within[kept].astype(np.int16)


def _draw(
    block: FeatureBlock, runs: _SequenceRuns, rank: Indices, seed: int
) -> tuple[Indices, NDArray[np.int8], NDArray[np.int16]]:
    """Indices of the activations drawn from the bands, with band and round."""
    candidates = _candidates(block, runs, rank, seed)
    sequence = np.where(candidates >= 0, runs.sequence[candidates], -1) if len(block.row) else candidates
    features = np.arange(block.n_features)
    used = np.full((block.n_features, DRAWN), -2, np.int64)
    picks: list[tuple[Indices, int, int]] = []
    for turn in range(EXAMPLES_PER_BAND):
        for band in range(BANDS, 0, -1):
            offered = sequence[:, band - 1]
            free = (offered >= 0) & ~(offered[:, :, None] == used[:, None, : len(picks)]).any(axis=2)
            column = free.argmax(axis=1)
            picked = free[features, column]
            used[picked, len(picks)] = offered[features, column][picked]
            picks.append((candidates[features, band - 1, column][picked], band, turn))
    sizes = [len(index) for index, _, _ in picks]
    return (
        np.concatenate([index for index, _, _ in picks]),
        np.repeat(np.array([band for _, band, _ in picks], np.int8), sizes),
        np.repeat(np.array([turn for _, _, turn in picks], np.int16), sizes),
    )


def _candidates(block: FeatureBlock, runs: _SequenceRuns, rank: Indices, seed: int) -> Indices:
    """[features, bands, 25] indices of each band's first activations in distinct sequences, shuffled; -1 = no more."""
    count = block.count[block.row]
    band = band_of(rank - block.indptr[block.row], count) - 1
    key = draw_keys(seed, block.start + block.row.astype(np.uint64), block.position)
    # One activation of a visit in a band can be drawn: the first in the shuffle.
    code = runs.of.astype(np.int64) * BANDS + band
    first = np.full(len(runs.indptr) * BANDS, np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(first, code, key)
    index = np.flatnonzero(first[code] == key)
    cell = block.row[index].astype(np.int64) * BANDS + band[index]
    order = segments.stable_order(cell, (key[index] >> np.uint64(32)).astype(np.uint32))
    index, cell = index[order], cell[order]
    within = segments.rank_in_row(cell, block.n_features * BANDS)
    kept = within < DRAWN
    candidates = np.full((block.n_features * BANDS, DRAWN), -1, np.int64)
    candidates[cell[kept], within[kept]] = index[kept]
    return candidates.reshape(block.n_features, BANDS, DRAWN)


def draw_keys(seed: int, feature: NDArray[np.uint64], position: NDArray[np.int32]) -> NDArray[np.uint64]:
    """A number for each activation, by which a band is shuffled: 32 random bits, then the position.

    The random bits are SplitMix64's (Steele, Lea and Flood 2014) of seed, feature and position, so that any part of
    the store draws the same, in any order.
    """
    place = position.astype(np.uint64)
    with np.errstate(over="ignore"):
        random = _split_mix(_split_mix(np.uint64(seed) + _split_mix(feature)) + place)
    return (random & np.uint64(0xFFFFFFFF00000000)) | place


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
    """Put the chosen activations and all others of their visits together."""
    run = runs.of[chosen]
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


def concatenate_examples(parts: list[Examples]) -> Examples:
    """Join the examples of consecutive blocks of features."""
    sizes = np.concatenate([np.diff(part.indptr) for part in parts])
    names = ("feature", "band", "rank", "sequence", "position", "activation", "positions", "values")
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    return Examples(indptr=segments.bounds(sizes), **joined)
