"""Statistics as the database takes them: a row per feature and a row per example, of Python's own numbers.

Arrays become lists once, whole, and rows are cut from the lists: converting each row's slices one by one takes ten
times as long.
"""

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.queries.comparisons import FeatureMatchRow
from app.queries.publish import ExampleRow, FeatureStatisticsRow
from sae_core.corpora import Sequences
from sae_core.matching import Counterparts, Partners
from sae_core.statistics.spec import PLAIN, RANKED_LISTS
from sae_core.statistics.types import FeatureStatistics


def feature_rows(statistics: FeatureStatistics) -> Iterator[FeatureStatisticsRow]:
    """Yield a row per feature, in order, without the padding of its lists; NaN becomes None."""
    ranked = {statistic.name for entry in RANKED_LISTS for statistic in entry.statistics}
    columns: dict[str, Iterable[Any]] = {
        name: array.tolist() for name, array in statistics.arrays.items() if name not in ranked
    }
    for statistic in PLAIN:
        if not statistic.required:
            columns[statistic.name] = [None if value != value else value for value in columns[statistic.name]]
    for entry in RANKED_LISTS:
        columns |= _rows_of_list(
            {statistic.name: statistics[statistic.name] for statistic in entry.statistics}, entry.ids.name
        )
    columns["health"] = _flag_names(statistics)
    columns["number"] = range(len(statistics["count"]))
    for values in zip(*columns.values(), strict=True):
        yield FeatureStatisticsRow(**dict(zip(columns, values, strict=True)))


def _rows_of_list(arrays: dict[str, NDArray[Any]], ids: str) -> dict[str, Iterator[list[Any]]]:
    """Return the arrays of a ranked list as rows, cut where the padding (-1) of the array of ids starts."""
    lengths = (arrays[ids] >= 0).sum(axis=1).tolist()
    return {name: _cut(array, lengths) for name, array in arrays.items()}


def _cut(array: NDArray[Any], lengths: list[int]) -> Iterator[list[Any]]:
    """Yield the rows of an array as lists of the given lengths."""
    return (row[:length] for row, length in zip(array.tolist(), lengths, strict=True))


def _flag_names(statistics: FeatureStatistics) -> Iterator[list[str]]:
    """Yield the names of each feature's health flags, sorted."""
    names = sorted(statistics.health)
    flags = np.stack([statistics.health[name] for name in names], axis=1)
    return ([name for name, is_set in zip(names, row, strict=True) if is_set] for row in flags.tolist())


def example_rows(statistics: FeatureStatistics) -> Iterator[ExampleRow]:
    """Yield a row per example, in the order of `Examples`."""
    examples = statistics.examples
    positions, values = examples.positions.tolist(), examples.values.tolist()
    columns = zip(
        examples.feature.tolist(),
        examples.band.tolist(),
        examples.rank.tolist(),
        examples.sequence.tolist(),
        examples.position.tolist(),
        examples.activation.tolist(),
        pairwise(examples.indptr.tolist()),
        strict=True,
    )
    for feature, band, rank, sequence, position, activation, (start, stop) in columns:
        yield ExampleRow(
            feature=feature,
            band=band,
            rank=rank,
            sequence=sequence,
            position=position,
            activation=activation,
            positions=positions[start:stop],
            values=values[start:stop],
        )


def match_rows(counterparts: Counterparts) -> Iterator[FeatureMatchRow]:
    """Yield a row per feature of one SAE: its counterparts in another."""
    c = counterparts
    columns = {
        "count": c.count.tolist(),
        **_partner("near", c.near),
        "near_matched": c.near_matched.tolist(),
        **_partner("coactive", c.coactive),
        "coactive_matched": c.coactive_matched.tolist(),
        **_partner("parent", c.parent),
        "parts": c.parts.tolist(),
        "covered": c.covered.tolist(),
    }
    for feature, values in enumerate(zip(*columns.values(), strict=True)):
        yield FeatureMatchRow(feature=feature, **dict(zip(columns, values, strict=True)))


def _partner(name: str, partners: Partners) -> dict[str, list[Any]]:
    return {
        name: [number if number >= 0 else None for number in partners.ids.tolist()],
        f"{name}_cosine": partners.cosine.tolist(),
        f"{name}_correlation": partners.correlation.tolist(),
        f"{name}_joint": partners.joint.tolist(),
    }


def unpadded(sequences: Sequences) -> Iterator[tuple[list[int], list[int]]]:
    """Yield token ids and document numbers of each sequence, without the padding at its end."""
    padding = (sequences.token_ids == sequences.pad_token_id) & ~sequences.counted & (sequences.document_of < 0)
    lengths = sequences.length - np.argmin(padding[:, ::-1], axis=1)
    for ids, documents, length in zip(sequences.token_ids, sequences.document_of, lengths.tolist(), strict=True):
        yield ids[:length].tolist(), documents[:length].tolist()
