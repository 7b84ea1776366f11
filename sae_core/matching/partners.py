"""For each feature of one SAE, the best partner in the other by three scores."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from sae_core.matching.pairs import PairBlock
from sae_core.statistics.spec import COACTIVE_MIN_JOINT, DENSE_DENSITY
from sae_core.store.segments import Indices, concatenate

PART_GIVEN = 0.5
"""A feature is a part of one of the other SAE that is active on at least this share of the part's tokens …"""
PART_COSINE = 0.3
"""… that writes in a direction of at least this cosine (7 standard deviations of random directions in 576
dimensions), that is active on more tokens than the part, and that is not dense."""
PART_COUNT = 10
"""A part is active on at least this many tokens: fewer may be among another's by chance."""

NEVER = np.float32(-np.inf)
"""Score of a pair that must not be chosen."""


@dataclass(frozen=True)
class Partners:
    """For each feature of one SAE, one of the other and the measures of the pair; [n] each, id -1 = none."""

    ids: NDArray[np.int32]
    cosine: NDArray[np.float32]
    """Of the decoder directions."""
    correlation: NDArray[np.float32]
    """Of the activations; 0 without stores."""
    joint: NDArray[np.int64]
    """Tokens on which both are active; 0 without stores."""

    @classmethod
    def none(cls, n: int) -> Self:
        """Return no partner for each of `n` features."""
        return cls(np.full(n, -1, np.int32), np.zeros(n, np.float32), np.zeros(n, np.float32), np.zeros(n, np.int64))


@dataclass(frozen=True)
class Ranked:
    """Partners with the score that each was chosen by; [n], -inf if there is none."""

    partners: Partners
    score: NDArray[np.float32]

    @classmethod
    def none(cls, n: int) -> Self:
        """Return no partner for each of `n` features."""
        return cls(Partners.none(n), np.full(n, NEVER))

    @classmethod
    def by_row(cls, score: NDArray[np.float32], pairs: PairBlock) -> Self:
        """Return the best column of each row: for features of `a`, partners in `b`."""
        return cls._at(np.arange(len(score)), score.argmax(axis=1), score, pairs, partners_are_rows=False)

    @classmethod
    def by_column(cls, score: NDArray[np.float32], pairs: PairBlock) -> Self:
        """Return the best row of each column: for features of `b`, partners in `a`."""
        return cls._at(score.argmax(axis=0), np.arange(score.shape[1]), score, pairs, partners_are_rows=True)

    @classmethod
    def _at(
        cls, row: Indices, column: Indices, score: NDArray[np.float32], pairs: PairBlock, *, partners_are_rows: bool
    ) -> Self:
        """Return the pairs at these rows and columns, where they may be chosen. `argmax` takes the first of equals."""
        best = score[row, column]
        found = best > NEVER
        ids = pairs.start + row if partners_are_rows else column
        partners = Partners(
            ids=np.where(found, ids, -1).astype(np.int32),
            cosine=np.where(found, pairs.cosine[row, column], np.float32(0)),
            correlation=np.where(found, pairs.correlation[row, column], np.float32(0)),
            joint=np.where(found, pairs.joint[row, column], 0).astype(np.int64),
        )
        return cls(partners, best)

    def or_better(self, later: "Ranked") -> "Ranked":
        """Return for each feature the partner with the higher score; the earlier one wins a tie."""
        better = later.score > self.score
        mine, theirs = self.partners, later.partners
        partners = Partners(
            ids=np.where(better, theirs.ids, mine.ids),
            cosine=np.where(better, theirs.cosine, mine.cosine),
            correlation=np.where(better, theirs.correlation, mine.correlation),
            joint=np.where(better, theirs.joint, mine.joint),
        )
        return Ranked(partners, np.where(better, later.score, self.score))


@dataclass(frozen=True)
class BestPartners:
    """The best partners of each feature of one SAE."""

    near: Ranked
    """By the cosine of the directions."""
    coactive: Ranked
    """By the correlation of the activations."""
    parent: Ranked
    """Of the features that it may be a part of, the nearest in direction."""

    @classmethod
    def none(cls, n: int) -> Self:
        """Return no partners for each of `n` features."""
        return cls(Ranked.none(n), Ranked.none(n), Ranked.none(n))

    def or_better(self, later: "BestPartners") -> "BestPartners":
        """Return the better partner of each feature by each score."""
        return BestPartners(
            near=self.near.or_better(later.near),
            coactive=self.coactive.or_better(later.coactive),
            parent=self.parent.or_better(later.parent),
        )


def best_partners(blocks: Iterable[PairBlock], m: int) -> tuple[BestPartners, BestPartners]:
    """Return the best partners of all features of `a`, and of the `m` features of `b`.

    A block has all partners of its rows, so those of `a` are complete at once; those of `b` are the best of all blocks.
    """
    of_a: list[BestPartners] = []
    of_b = BestPartners.none(m)
    for pairs in blocks:
        rows, columns = _best_of_block(pairs)
        of_a.append(rows)
        of_b = of_b.or_better(columns)
    return _joined(of_a), of_b


def _best_of_block(pairs: PairBlock) -> tuple[BestPartners, BestPartners]:
    """Return the best partners of the rows, and of the columns, among the pairs of one block."""
    near = Ranked.by_row(pairs.cosine, pairs), Ranked.by_column(pairs.cosine, pairs)
    if pairs.tokens == 0:
        rows, columns = (Ranked.none(size) for size in pairs.cosine.shape)
        return BestPartners(near[0], rows, rows), BestPartners(near[1], columns, columns)
    joint, correlation = pairs.joint, pairs.correlation
    row_count, column_count = pairs.row_count[:, None], pairs.column_count[None, :]
    coactive = np.where((joint >= COACTIVE_MIN_JOINT) & (correlation > 0), correlation, NEVER)
    aligned = np.where(pairs.cosine >= PART_COSINE, pairs.cosine, NEVER)
    parent_in_b = np.where(_is_part(joint, row_count, column_count, pairs.tokens), aligned, NEVER)
    parent_in_a = np.where(_is_part(joint, column_count, row_count, pairs.tokens), aligned, NEVER)
    return (
        BestPartners(near[0], Ranked.by_row(coactive, pairs), Ranked.by_row(parent_in_b, pairs)),
        BestPartners(near[1], Ranked.by_column(coactive, pairs), Ranked.by_column(parent_in_a, pairs)),
    )


def _is_part(joint: NDArray[np.int32], count: Indices, parent_count: Indices, tokens: int) -> NDArray[np.bool_]:
    """True if a feature of this `count` may be a part of the other, by the tokens that they are active on."""
    eligible = (count >= PART_COUNT) & (parent_count > count) & (parent_count <= DENSE_DENSITY * tokens)
    return eligible & (joint >= PART_GIVEN * count)


def _joined(parts: list[BestPartners]) -> BestPartners:
    """Return the best partners of consecutive features as one."""

    def joined(ranked: list[Ranked]) -> Ranked:
        return Ranked(concatenate([part.partners for part in ranked]), np.concatenate([part.score for part in ranked]))

    return BestPartners(
        near=joined([part.near for part in parts]),
        coactive=joined([part.coactive for part in parts]),
        parent=joined([part.parent for part in parts]),
    )
