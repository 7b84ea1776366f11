"""For each feature of one SAE, the best partner in the other by three scores."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sae_core.matching.pairs import Pairs
from sae_core.statistics.spec import COACTIVE_MIN_JOINT, DENSE_DENSITY
from sae_core.store.segments import Indices

PART_GIVEN = 0.5
"""A feature is a part of one of the other SAE that is active on at least this share of the part's tokens …"""
PART_COSINE = 0.3
"""… that writes in a direction of at least this cosine (7 standard deviations of random directions in 576
dimensions), that is active on more tokens than the part, and that is not dense."""
PART_COUNT = 10
"""A part is active on at least this many tokens: fewer may be among another's by chance."""

MIN_JOINT = min(COACTIVE_MIN_JOINT, int(PART_GIVEN * PART_COUNT))
"""Tokens that a feature and what is chosen by activity share at least."""

NEVER = np.float32(-np.inf)
"""Score of a pair that must not be chosen."""

Cosines: TypeAlias = Callable[[Indices, Indices], NDArray[np.float32]]
"""Cosines of features of `a`, ascending, and features of `b`."""


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


@dataclass(frozen=True)
class Chosen:
    """For each feature of one SAE, the partner of the highest score so far, and what both do together; [n] each."""

    ids: NDArray[np.int32]
    """-1 = none."""
    score: NDArray[np.float32]
    joint: NDArray[np.int64]
    product: NDArray[np.float64]
    """Sum of the products of the activations."""

    @classmethod
    def none(cls, n: int) -> Self:
        """Return no partner for each of `n` features."""
        return cls(np.full(n, -1, np.int32), np.full(n, NEVER), np.zeros(n, np.int64), np.zeros(n))

    @classmethod
    def fixed(cls, ids: NDArray[np.int32]) -> Self:
        """Return these partners, of which no other is better; what they do together is still to be seen."""
        n = len(ids)
        return cls(ids, np.full(n, np.inf, np.float32), np.zeros(n, np.int64), np.zeros(n))

    def take(
        self,
        own: Indices,
        partner: Indices,
        score: NDArray[np.float32],
        joint: NDArray[np.int32],
        product: NDArray[np.float64],
    ) -> None:
        """Take the best of these pairs where they are better than before; of equals the earlier, then the lower id."""
        best = np.full(len(self.ids), NEVER)
        np.maximum.at(best, own, score)
        first = np.full(len(self.ids), np.iinfo(np.int64).max)
        highest = (score == best[own]) & (score > self.score[own])
        np.minimum.at(first, own[highest], partner[highest])
        chosen = np.flatnonzero(highest)[partner[highest] == first[own[highest]]]
        at = own[chosen]
        self.ids[at], self.score[at] = partner[chosen], score[chosen]
        self.joint[at], self.product[at] = joint[chosen], product[chosen]

    def see(self, own: Indices, partner: Indices, joint: NDArray[np.int32], product: NDArray[np.float64]) -> None:
        """Note what the partners do together, where these pairs say it."""
        known = self.ids[own] == partner
        self.joint[own[known]], self.product[own[known]] = joint[known], product[known]


@dataclass(frozen=True)
class BestPartners:
    """The best partners of each feature of one SAE."""

    near: Chosen
    """By the cosine of the directions."""
    coactive: Chosen
    """By the correlation of the activations."""
    parent: Chosen
    """Of the features that it may be a part of, the nearest in direction."""

    @classmethod
    def given(cls, near: NDArray[np.int32]) -> Self:
        """Return only the nearest of each feature."""
        return cls(Chosen.fixed(near), Chosen.none(len(near)), Chosen.none(len(near)))


def choose_partners(
    a: BestPartners,
    b: BestPartners,
    found: Iterable[Pairs],
    counts: tuple[Indices, Indices],
    tokens: int,
    cosines: Cosines,
) -> None:
    """Give all features of both SAEs their best partners by what they do together.

    Args:
        a: with the nearest of each feature; gets the rest.
        b: the same of the other SAE.
        found: pairs that share `MIN_JOINT` tokens or are nearest, by ascending features of `a`; others change nothing.
        counts: tokens on which each feature of `a`, and of `b`, is active.
        tokens: counted tokens.
        cosines: of some pairs.
    """
    for pairs in found:
        row, column, joint, product = pairs.row, pairs.column, pairs.joint, pairs.product
        a.near.see(row, column, joint, product)
        b.near.see(column, row, joint, product)
        together = (joint >= COACTIVE_MIN_JOINT) & (pairs.correlation > 0)
        kept = row[together], column[together], pairs.correlation[together], joint[together], product[together]
        a.coactive.take(*kept)
        b.coactive.take(kept[1], kept[0], *kept[2:])
        for own, other, partners, count in (
            (row, column, a.parent, counts),
            (column, row, b.parent, counts[::-1]),
        ):
            part = np.flatnonzero(_is_part(joint, count[0][own], count[1][other], tokens))
            cosine = cosines(row[part], column[part])
            part, cosine = part[cosine >= PART_COSINE], cosine[cosine >= PART_COSINE]
            partners.take(own[part], other[part], cosine, joint[part], product[part])


def _is_part(joint: NDArray[np.int32], count: Indices, parent_count: Indices, tokens: int) -> NDArray[np.bool_]:
    """True if a feature of this `count` may be a part of the other, by the tokens that they are active on."""
    eligible = (count >= PART_COUNT) & (parent_count > count) & (parent_count <= DENSE_DENSITY * tokens)
    return eligible & (joint >= PART_GIVEN * count)
