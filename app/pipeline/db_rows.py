"""Statistics as the database takes them: a row a feature and a row an example, of Python's own numbers.

Arrays become lists once, whole, and rows are cut from the lists: converting each row's slices by themselves takes ten
times as long.
"""

from collections.abc import Iterator
from itertools import chain, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.queries.comparisons import FeatureMatchRow
from app.queries.publish import ExampleRow, FeatureStatisticsRow
from sae_core.corpora import Sequences
from sae_core.matching import Counterparts, Partners
from sae_core.statistics.types import FeatureStatistics


def feature_rows(statistics: FeatureStatistics) -> Iterator[FeatureStatisticsRow]:
    """A row for every feature, in order, without the padding of its lists."""
    s = statistics
    flags = sorted(s.health)
    flagged = np.stack([s.health[flag] for flag in flags], axis=1)
    columns = zip(
        s.count.tolist(),
        s.density.tolist(),
        s.max.tolist(),
        s.mean.tolist(),
        s.histogram.tolist(),
        s.band_edges.tolist(),
        _ranked(s.top_token_ids, s.top_token_counts, s.top_token_shares, s.top_token_means),
        _ranked(s.promoted_ids, s.promoted_logits),
        _ranked(s.suppressed_ids, s.suppressed_logits),
        _ranked(s.coactive, s.coactive_pmi, s.coactive_joint, s.coactive_given_this, s.coactive_given_other),
        _ranked(s.near, s.near_cosine),
        _ranked(s.topics.topic, s.topics.count, s.topics.share, s.topics.lift),
        flagged.tolist(),
        strict=True,
    )
    for number, (*moments, tokens, promoted, suppressed, coactive, near, topics, health) in enumerate(columns):
        lists = chain(tokens, promoted, suppressed, coactive, near, topics)
        names = [flag for flag, is_set in zip(flags, health, strict=True) if is_set]
        yield FeatureStatisticsRow._make((number, *moments, *lists, names))


def _ranked(ids: NDArray[Any], *beside: NDArray[Any]) -> Iterator[tuple[list[Any], ...]]:
    """For every feature, its ids and the values beside them, cut where the padding (-1) starts."""
    lengths = (ids >= 0).sum(axis=1).tolist()
    lists = [column.tolist() for column in (ids, *beside)]
    for row, length in enumerate(lengths):
        yield tuple(column[row][:length] for column in lists)


def example_rows(statistics: FeatureStatistics) -> Iterator[ExampleRow]:
    """A row for every example, in the order of `Examples`."""
    e = statistics.examples
    indptr, positions, values = e.indptr.tolist(), e.positions.tolist(), e.values.tolist()
    columns = zip(
        e.feature.tolist(),
        e.band.tolist(),
        e.rank.tolist(),
        e.sequence.tolist(),
        e.position.tolist(),
        e.activation.tolist(),
        strict=True,
    )
    for row, (start, stop) in zip(columns, pairwise(indptr), strict=True):
        yield ExampleRow._make((*row, positions[start:stop], values[start:stop]))


def match_rows(counterparts: Counterparts) -> Iterator[FeatureMatchRow]:
    """A row for every feature of one SAE, of what it has in another."""
    c = counterparts
    columns = zip(
        c.count.tolist(),
        *_partner(c.near),
        c.near_matched.tolist(),
        *_partner(c.coactive),
        c.coactive_matched.tolist(),
        *_partner(c.parent),
        c.parts.tolist(),
        c.covered.tolist(),
        strict=True,
    )
    for number, row in enumerate(columns):
        yield FeatureMatchRow._make((number, *row))


def _partner(partners: Partners) -> tuple[list[Any], ...]:
    numbers = [number if number >= 0 else None for number in partners.ids.tolist()]
    return numbers, partners.cosine.tolist(), partners.correlation.tolist(), partners.joint.tolist()


def unpadded(sequences: Sequences) -> Iterator[tuple[list[int], list[int]]]:
    """Token ids and document numbers of every sequence, without the padding at its end."""
    padding = (sequences.token_ids == sequences.pad_token_id) & ~sequences.counted & (sequences.document_of < 0)
    lengths = sequences.length - np.argmin(padding[:, ::-1], axis=1)
    for ids, documents, length in zip(sequences.token_ids, sequences.document_of, lengths.tolist(), strict=True):
        yield ids[:length].tolist(), documents[:length].tolist()
