"""Publish an index: copy its rows into new partitions, then put them in the place of the old in one transaction."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy.ext.asyncio import AsyncEngine


class FeatureStatisticsRow(NamedTuple):
    """The statistics of one feature, as `sae_core.index.statistics` computes them, padding (-1) left out.

    Arrays that belong together have equal lengths. Numbers are Python's own (`ndarray.tolist()`).
    """

    number: int
    count: int
    density: float
    max: float
    mean: float
    histogram: Sequence[int]
    band_edges: Sequence[float]
    top_token_ids: Sequence[int]
    top_token_counts: Sequence[int]
    top_token_shares: Sequence[float]
    top_token_means: Sequence[float]
    promoted_ids: Sequence[int]
    promoted_logits: Sequence[float]
    suppressed_ids: Sequence[int]
    suppressed_logits: Sequence[float]
    coactive: Sequence[int]
    coactive_pmi: Sequence[float]
    coactive_joint: Sequence[int]
    coactive_given_this: Sequence[float]
    coactive_given_other: Sequence[float]
    near: Sequence[int]
    near_cosine: Sequence[float]
    topics: Sequence[int]
    """Places in the index' list of topic names."""
    topic_counts: Sequence[int]
    topic_shares: Sequence[float]
    topic_lifts: Sequence[float]
    health: Sequence[str]


class ExampleRow(NamedTuple):
    """One example; `positions` and `values` are all non-zero activations of the feature in the sequence."""

    feature: int
    band: int
    rank: int
    sequence: int
    position: int
    activation: float
    positions: Sequence[int]
    values: Sequence[float]


async def publish_index(
    engine: AsyncEngine,
    *,
    sae_id: int,
    sequence_set_id: int,
    tokens: int,
    topics: Sequence[str],
    provenance: Mapping[str, Any],
    features: Iterable[FeatureStatisticsRow],
    examples: Iterable[ExampleRow],
) -> int:
    """Publish an index of an SAE in the place of its current one, and answer its id.

    Readers see the old index or the new one, whole. An index of the same provenance that is already current is left as
    it is; what a killed publish left behind is removed.

    Args:
        features: in order of their number, one for every feature.
        examples: in order of feature, band and rank.

    Raises:
        ValueError: `examples` are out of order.
    """
    raise NotImplementedError
