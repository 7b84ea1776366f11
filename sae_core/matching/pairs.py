"""Measures of pairs of features, one of each SAE, a block of pairs at a time.

Memory is a few blocks of rows of the n × m table of pairs, never the table: `JOINT_BYTES` of counts and products, and
what ranking `ROWS` rows of them takes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from sae_core.progress import Progress
from sae_core.statistics.coactivation import CHUNK_NONZEROS, JOINT_BYTES, TokenFeatureTable, add_joint
from sae_core.store import segments
from sae_core.store.activation_store import ActivationStore
from sae_core.store.segments import Indices

ROWS = 128
"""Features of the one SAE ranked at once against all of the other. A constant, because the last bits of a product
depend on its shape."""
PAIR_BYTES = 12
"""Of a joint count and a sum of products."""


@dataclass(frozen=True)
class PairBlock:
    """Consecutive features of `a` (rows) against all features of `b` (columns).

    The activities were not compared if `tokens` is 0; then correlations and counts are 0 too.
    """

    cosine: NDArray[np.float32]
    """[rows, columns] of the decoder directions."""
    correlation: NDArray[np.float32]
    """[rows, columns] of the activations; 0 where one of two does not vary."""
    joint: NDArray[np.int32]
    """[rows, columns] tokens on which both are active."""
    row_count: Indices
    """[rows] tokens on which each feature of `a` is active."""
    column_count: Indices
    """[columns] tokens on which each feature of `b` is active."""
    tokens: int
    """Counted tokens."""
    start: int
    """Index of the first row's feature."""


def pairs_by_direction(
    unit_a: Float[Tensor, "n d"], unit_b: Float[Tensor, "m d"], progress: Progress
) -> Iterator[PairBlock]:
    """Yield all pairs with the cosine of their directions alone; progress is in features of `a`."""
    n, m = len(unit_a), len(unit_b)
    for start in range(0, n, ROWS):
        cosine = _cosine(unit_a[start : start + ROWS], unit_b)
        shape = cosine.shape
        yield PairBlock(
            cosine=cosine,
            correlation=np.broadcast_to(np.float32(0), shape),
            joint=np.broadcast_to(np.int32(0), shape),
            row_count=np.zeros(shape[0], np.int64),
            column_count=np.zeros(m, np.int64),
            tokens=0,
            start=start,
        )
        progress(start + len(cosine), n)


@dataclass(frozen=True)
class Activity:
    """The activations of two SAEs on the same tokens."""

    a: ActivationStore
    b: ActivationStore
    tokens: int
    """Counted tokens."""

    @classmethod
    def of(cls, a: ActivationStore, b: ActivationStore) -> Self:
        """Of two stores of the same sequences."""
        return cls(a, b, a.plan["tokens"])

    def swapped(self) -> "Activity":
        """Return the same with `a` and `b` exchanged."""
        return Activity(self.b, self.a, self.tokens)

    def pairs(
        self, unit_a: Float[Tensor, "n d"], unit_b: Float[Tensor, "m d"], progress: Progress
    ) -> Iterator[PairBlock]:
        """Yield all pairs, by direction and activity; progress is in features of `a`."""
        n, m = len(unit_a), len(unit_b)
        moments_a, moments_b = _Moments.of(self.a), _Moments.of(self.b)
        rows = max(ROWS, JOINT_BYTES // (PAIR_BYTES * m) // ROWS * ROWS)
        for start in range(0, n, rows):
            stop = min(start + rows, n)
            joint, product = self._count(start, stop, progress)
            for first in range(start, stop, ROWS):
                features = slice(first, min(first + ROWS, stop))
                held = slice(features.start - start, features.stop - start)
                covariance = self.tokens * product[held] - moments_a.total[features, None] * moments_b.total
                scale = moments_a.spread[features, None] * moments_b.spread
                correlation = np.divide(covariance, scale, out=np.zeros_like(covariance), where=scale > 0)
                yield PairBlock(
                    cosine=_cosine(unit_a[features], unit_b),
                    correlation=correlation.clip(-1, 1).astype(np.float32),
                    joint=joint[held],
                    row_count=self.a.count[features],
                    column_count=self.b.count,
                    tokens=self.tokens,
                    start=first,
                )
            progress(stop, n)

    def covered(self, parent: NDArray[np.int32]) -> Indices:
        """Return for each feature of `a` the tokens on which it and at least one of its parts are active.

        Args:
            parent: [features of `b`] the feature of `a` that each is a part of; -1 if there is none.
        """
        covered = np.zeros(self.a.d_sae, np.int64)
        for positions in self._chunks():
            own, parts = (store.block_on(0, store.d_sae, positions) for store in (self.a, self.b))
            # Feature and position become one number, ascending as a block is, so that sets can be compared.
            own_keys = own.row.astype(np.int64) * len(positions) + own.position - positions.start
            parents = parent[parts.row].astype(np.int64)
            is_part = parents >= 0
            part_keys = np.unique(parents[is_part] * len(positions) + parts.position[is_part] - positions.start)
            shared = np.intersect1d(own_keys, part_keys, assume_unique=True)
            covered += np.bincount(shared // len(positions), minlength=self.a.d_sae)
        return covered

    def _count(self, start: int, stop: int, progress: Progress) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """Count joint tokens and sum products of features `start` to `stop - 1` of `a` with all of `b`."""
        shape = stop - start, self.b.d_sae
        joint, product = np.zeros(shape, np.int32), np.zeros(shape, np.float64)
        chunks = self._chunks()
        for number, positions in enumerate(chunks):
            table = TokenFeatureTable.of(self.b.block_on(0, self.b.d_sae, positions), positions)
            block = self.a.block_on(start, stop, positions)
            for done in add_joint(joint, block, table, product):
                progress(start + (number * (stop - start) + done) // len(chunks), self.a.d_sae)
        return joint, product

    def _chunks(self) -> list[range]:
        """Cut the positions into parts of at most `CHUNK_NONZEROS` of the store that has more."""
        denser = max(self.a, self.b, key=lambda store: sum(store.shard_nonzeros))
        return [denser.positions(shards) for shards in denser.shard_groups(CHUNK_NONZEROS)]


@dataclass(frozen=True)
class _Moments:
    """[d_sae] what a correlation needs of each feature's own activations, over all counted tokens."""

    total: NDArray[np.float64]
    spread: NDArray[np.float64]
    """√(tokens · Σf² − (Σf)²): the standard deviation times the number of tokens; 0 for a feature that is constant."""

    @classmethod
    def of(cls, store: ActivationStore) -> Self:
        """Of one store."""
        sums = []
        for start, stop in store.feature_blocks(CHUNK_NONZEROS, store.d_sae):
            block = store.block(start, stop)
            values = block.value.astype(np.float64)
            sums.append(np.stack([segments.total(values, block.indptr), segments.total(values**2, block.indptr)]))
        total, squares = np.concatenate(sums, axis=1)
        variation = store.plan["tokens"] * squares - total**2
        # The difference of two equal numbers is not 0 after rounding.
        variation[variation < 1e-9 * total**2] = 0
        return cls(total, np.sqrt(variation))


def _cosine(unit_a: Float[Tensor, "rows d"], unit_b: Float[Tensor, "m d"]) -> NDArray[np.float32]:
    cosine: NDArray[np.float32] = (unit_a @ unit_b.T).clamp_(-1, 1).numpy()
    return cosine
