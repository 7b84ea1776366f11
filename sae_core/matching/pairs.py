"""Pairs of features, one of each SAE, that are active on common tokens, some features of the one at a time.

Most pairs of a wide SAE share no token, and most others few, so no table of all pairs is made. Compiled loops look up a
feature's tokens in a table of the other SAE's (`TokenTable`, 512 MB at most) and keep only pairs that may be chosen.
Where the other's store is larger, sparse matrices of all pairs are summed over parts of both: memory is that of `PAIRS`
pairs and of `CHUNK_NONZEROS` activations of each SAE.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Self, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from sae_core.progress import Progress
from sae_core.statistics.token_table import CHUNK_NONZEROS, TokenTable, fits
from sae_core.store import segments
from sae_core.store.activation_store import ActivationStore, FeatureBlock
from sae_core.store.segments import Indices
from sae_core.threads import in_order

PAIRS = 1 << 24
"""Pairs held at once as sparse matrices, of 20 bytes; all pairs of one feature may be more."""
OWN_NONZEROS = 1 << 18
"""Non-zeros of the features that a thread pairs at once: of 64 active features per token, 3.4 million pairs are kept at
most, of 16 bytes each; all pairs of one feature may be more."""
OWN_FEATURES = 1 << 13
"""Most features that a thread pairs at once."""


@dataclass(frozen=True)
class Pairs:
    """Features of `a` (rows) and of `b` (columns) that share tokens; [pairs], ascending by row."""

    row: Indices
    column: Indices
    joint: NDArray[np.int32]
    """Tokens on which both are active."""
    product: NDArray[np.float64]
    """Sum of the products of their activations."""
    correlation: NDArray[np.float32]
    """Of the activations; 0 where one of two does not vary."""


_Found: TypeAlias = tuple[Indices, Indices, NDArray[np.int32], NDArray[np.float64]]
"""Row, column, joint tokens and sum of products of some pairs."""


@dataclass(frozen=True)
class Asked:
    """Pairs that somebody wants to know about, by features of `a`."""

    first: Indices
    """[features of `a` + 1] where each feature's pairs start."""
    column: Indices
    """[pairs] features of `b`."""

    @classmethod
    def of_both(cls, of_a: NDArray[np.int32], of_b: NDArray[np.int32]) -> Self:
        """Of a feature of `b` for each of `a`, and one of `a` for each of `b`; -1 = none."""
        row = np.concatenate([np.arange(len(of_a)), of_b.astype(np.int64)])
        column = np.concatenate([of_a.astype(np.int64), np.arange(len(of_b))])
        there = (row >= 0) & (column >= 0)
        row, column = row[there], column[there]
        return cls(segments.row_bounds(row, len(of_a)), column[segments.stable_argsort(row)])

    def of(self, start: int, stop: int) -> tuple[Indices, Indices]:
        """Return `first` and `column` of features `start` to `stop - 1` of `a` alone."""
        first = self.first[start : stop + 1]
        return first - first[0], self.column[first[0] : first[-1]]


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

    def pairs(self, asked: "Asked", least: int, progress: Progress) -> Iterator[Pairs]:
        """Yield pairs, by ascending features of `a`, in which progress is.

        Args:
            asked: pairs to yield, however few tokens they share; they may come twice.
            least: tokens that all other pairs share at least.
            progress: in features of `a`.
        """
        if not fits(self.b, values=True):
            yield from self.all_pairs(progress)
            return
        table = TokenTable.of(self.b, values=True)
        blocks = self.a.feature_blocks(OWN_NONZEROS, OWN_FEATURES)
        found = in_order(lambda block: self._block_pairs(*block, table, asked, least), blocks)
        for (_, stop), parts in zip(blocks, found, strict=True):
            for row, column, joint, product in parts:
                yield Pairs(row, column, joint, product, self.correlation(row, column, product))
            progress(stop, self.a.d_sae)

    def all_pairs(self, progress: Progress) -> Iterator[Pairs]:
        """Yield all pairs that share a token, by ascending features of `a`, from sums of sparse matrices."""
        for start, stop in segments.cut(self._most_pairs().tolist(), PAIRS, self.a.d_sae):
            joint, product = self._shared(start, stop)
            row = np.repeat(np.arange(start, stop), np.diff(joint.indptr))
            column = joint.indices.astype(np.int64)
            yield Pairs(row, column, joint.data, product.data, self.correlation(row, column, product.data))
            progress(stop, self.a.d_sae)

    def correlation(self, row: Indices, column: Indices, product: NDArray[np.float64]) -> NDArray[np.float32]:
        """Return Pearson's correlations of some pairs, given the sums of the products of their activations."""
        own, others = self._moments
        covariance = self.tokens * product - own.total[row] * others.total[column]
        scale = own.spread[row] * others.spread[column]
        found = np.divide(covariance, scale, out=np.zeros_like(covariance), where=scale > 0)
        return found.clip(-1, 1).astype(np.float32)

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
            part_keys = segments.distinct(parents[is_part] * len(positions) + parts.position[is_part] - positions.start)
            shared = np.intersect1d(own_keys, part_keys, assume_unique=True)
            covered += np.bincount(shared // len(positions), minlength=self.a.d_sae)
        return covered

    @cached_property
    def _moments(self) -> tuple["_Moments", "_Moments"]:
        return _Moments.of(self.a), _Moments.of(self.b)

    def _most_pairs(self) -> NDArray[np.float64]:
        """[features of `a`] bounds on how many features of `b` each shares tokens with."""
        most = np.zeros(self.a.d_sae)
        for positions in self._chunks():
            own, others = (store.block_on(0, store.d_sae, positions) for store in (self.a, self.b))
            active = np.bincount(others.position - positions.start, minlength=len(positions)).astype(np.float64)
            most += segments.total(active[own.position - positions.start], own.indptr)
        return most.clip(max=self.b.d_sae)

    def _block_pairs(self, start: int, stop: int, table: TokenTable, asked: "Asked", least: int) -> list[_Found]:
        """Return the pairs of features `start` to `stop - 1` of `a` that share `least` tokens, and those asked for."""
        from sae_core.statistics import joint_loops  # numba

        own = self.a.block(start, stop)
        most = segments.total(table.active[own.position].astype(np.float64), own.indptr) // least
        room = int(most.clip(max=table.n_features).sum())
        column, joint, product = np.empty(room, np.int32), np.empty(room, np.int32), np.empty(room)
        asked_first, asked_column = asked.of(start, stop)
        asked_joint, asked_product = np.zeros(len(asked_column), np.int32), np.zeros(len(asked_column))
        ends = np.zeros(own.n_features, np.int64)
        joint_loops.shared(
            own.indptr, own.position, own.value, table.first, table.feature, table.value, least, asked_first,
            asked_column, np.zeros(table.n_features, np.int32), np.zeros(table.n_features),
            ends, column, joint, product, asked_joint, asked_product,
        )  # fmt: skip
        n = int(ends[-1])
        features = np.arange(start, stop)
        # Copies, because views would hold the room for all pairs until somebody takes the result.
        found = column[:n].astype(np.int64), joint[:n].copy(), product[:n].copy()
        kept = np.repeat(features, np.diff(ends, prepend=0)), *found
        return [kept, (np.repeat(features, np.diff(asked_first)), asked_column, asked_joint, asked_product)]

    def _shared(self, start: int, stop: int) -> tuple[sparse.csr_array, sparse.csr_array]:
        """Return the joint tokens and sums of products of features `start` to `stop - 1` of `a` with all of `b`.

        Both have the same entries, because activations are positive.
        """
        joint = sparse.csr_array((stop - start, self.b.d_sae), dtype=np.int32)
        product = sparse.csr_array(joint.shape, dtype=np.float64)
        for positions in self._chunks():
            own = self.a.block_on(start, stop, positions)
            others = self.b.block_on(0, self.b.d_sae, positions)
            joint += _by_token(own, positions, np.int32) @ _by_token(others, positions, np.int32).T
            product += _by_token(own, positions, np.float64) @ _by_token(others, positions, np.float64).T
        for table in (joint, product):
            table.sort_indices()
        return joint, product

    def _chunks(self) -> list[range]:
        """Cut the positions into parts of at most `CHUNK_NONZEROS` of the store that has more."""
        denser = max(self.a, self.b, key=lambda store: sum(store.shard_nonzeros))
        return [denser.positions(shards) for shards in denser.shard_groups(CHUNK_NONZEROS)]


def _by_token(block: FeatureBlock, positions: range, dtype: type[np.int32 | np.float64]) -> sparse.csr_array:
    """[features, positions] the activations as floats, or 1 for each as integers."""
    values = np.ones(len(block.value), dtype) if dtype is np.int32 else block.value.astype(dtype)
    shape = block.n_features, len(positions)
    return sparse.csr_array((values, block.position - positions.start, block.indptr), shape=shape)


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
