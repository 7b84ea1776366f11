"""Which features of two SAEs are the same, and which of the one are parts of one of the other.

Two measures, both exact. *Direction*: cosine of the decoder rows, which needs no text (Leask et al. 2025,
arXiv:2502.04878, tell new from known features of a wider SAE by it). *Activity*: Pearson's correlation of the
activations over the counted tokens of one corpus (Bricken et al. 2023 compare dictionaries by it), which also sees
features that mean the same and are written in other directions. It does not depend on how an SAE scales its features,
and tokens on which a feature is strong weigh more than those near its threshold, where two SAEs differ most.

Memory is a few blocks of rows of the n × m table of pairs, never the table: `JOINT_BYTES` of counts and products, and
what ranking `ROWS` rows of them takes.
"""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from sae_core.errors import ArtifactError
from sae_core.progress import Progress, silent
from sae_core.statistics.coactivation import CHUNK_NONZEROS, JOINT_BYTES, TokenFeatureTable, add_joint
from sae_core.statistics.spec import COACTIVE_MIN_JOINT, DENSE_DENSITY
from sae_core.store import segments
from sae_core.store.activation_store import ActivationStore
from sae_core.store.segments import Indices

MATCHING_VERSION = 1
"""Raise it when a definition changes."""

MATCH_COSINE = 0.5
"""Two features match by direction if each has the highest cosine to the other, and it is at least this …"""
MATCH_CORRELATION = 0.5
"""… and by activity if each correlates most with the other, at least this much, and they share `COACTIVE_MIN_JOINT`
tokens."""

PART_GIVEN = 0.5
"""A feature is a part of one of the other SAE that is active on at least this share of the part's tokens …"""
PART_COSINE = 0.3
"""… that writes in a direction of at least this cosine (7 standard deviations of random directions in 576
dimensions), that is active on more tokens than the part, and that is not dense."""
PART_COUNT = 10
"""A part is active on at least this many tokens: fewer may be among another's by chance."""

THRESHOLDS: dict[str, float] = {
    "match_cosine": MATCH_COSINE,
    "match_correlation": MATCH_CORRELATION,
    "min_joint": COACTIVE_MIN_JOINT,
    "part_given": PART_GIVEN,
    "part_cosine": PART_COSINE,
    "part_count": PART_COUNT,
    "dense_density": DENSE_DENSITY,
}

ROWS = 128
"""Features of the one SAE ranked at once against all of the other. A constant, because the last bits of a product
depend on its shape."""
PAIR_BYTES = 12
"""Of a joint count and a sum of products."""


@dataclass(frozen=True)
class Partners:
    """For each feature of one SAE, one of the other and what is known of the pair; [n] each, id -1 = none."""

    ids: NDArray[np.int32]
    cosine: NDArray[np.float32]
    """Of the decoder directions."""
    correlation: NDArray[np.float32]
    """Of the activations; 0 without stores."""
    joint: NDArray[np.int64]
    """Tokens on which both are active; 0 without stores."""

    @classmethod
    def none(cls, n: int) -> Self:
        """Nobody has a partner."""
        return cls(np.full(n, -1, np.int32), np.zeros(n, np.float32), np.zeros(n, np.float32), np.zeros(n, np.int64))


@dataclass(frozen=True)
class Counterparts:
    """What one SAE's features have in the other; [n] each."""

    count: Indices
    """Tokens on which the feature is active; 0 without stores."""
    near: Partners
    """The feature with the highest cosine; ties by number."""
    coactive: Partners
    """The feature with the highest correlation above 0, sharing `COACTIVE_MIN_JOINT` tokens or more; ties by number."""
    parent: Partners
    """What the feature is a part of: of those that satisfy `PART_GIVEN` and the rest, the nearest in direction."""
    near_matched: NDArray[np.bool_]
    """Whether each is `near` to the other, at least `MATCH_COSINE`."""
    coactive_matched: NDArray[np.bool_]
    """Whether each is most `coactive` with the other, at least `MATCH_CORRELATION`."""
    parts: NDArray[np.int32]
    """How many features of the other SAE have this one as their parent. Two or more: it is split there."""
    covered: Indices
    """Tokens of the feature on which at least one of its parts is active."""


@dataclass(frozen=True)
class Matching:
    """Two SAEs, each seen from the other."""

    a: Counterparts
    b: Counterparts
    tokens: int
    """Counted tokens that activity was compared on; 0 if it was not."""


def provenance(stores: tuple[ActivationStore, ActivationStore] | None) -> dict[str, Any]:
    """What a matching of two SAEs depends on beside their decoders, and every choice in its definitions; JSON."""
    return {
        "matching_version": MATCHING_VERSION,
        "torch_version": str(torch.__version__),
        "thresholds": THRESHOLDS,
        "stores": None if stores is None else [store.plan for store in stores],
    }


@torch.no_grad()
def match_features(
    W_dec_a: Float[Tensor, "n d"],
    W_dec_b: Float[Tensor, "m d"],
    stores: tuple[ActivationStore, ActivationStore] | None,
    *,
    progress: Progress = silent,
) -> Matching:
    """Compare every feature of `a` with every feature of `b`.

    The work is one product of both decoders and, for each token, the features of `a` that are active on it times those
    of `b`.

    Args:
        W_dec_a: decoder directions.
        W_dec_b: decoder directions that live in the same space.
        stores: activations of `a` and `b` on the same sequences; without them only directions are compared.
        progress: in features of `a`.

    Raises:
        ArtifactError: if the stores are of other SAEs or were made on different sequences, or the decoders write to
            spaces of different dimension.
    """
    n, m = len(W_dec_a), len(W_dec_b)
    _check(W_dec_a, W_dec_b, stores)
    unit_a, unit_b = (torch.nn.functional.normalize(W.float().cpu(), dim=1) for W in (W_dec_a, W_dec_b))
    pairs = None if stores is None else _Pairs.of(*stores)
    a, b = _Best.empty(n), _Best.empty(m)
    rows = ROWS if pairs is None else max(ROWS, JOINT_BYTES // (PAIR_BYTES * m) // ROWS * ROWS)
    for start in range(0, n, rows):
        stop = min(start + rows, n)
        if pairs is not None:
            pairs.count_rows(start, stop, progress)
        for first in range(start, stop, ROWS):
            block = slice(first, min(first + ROWS, stop))
            cosine = (unit_a[block] @ unit_b.T).clamp_(-1, 1).numpy()
            _rank(block, cosine, pairs, a, b)
        progress(stop, n)
    of_a, of_b = _counterparts(a, b, pairs), _counterparts(b, a, pairs and pairs.turned())
    return Matching(of_a, of_b, pairs.tokens if pairs else 0)


def _check(W_dec_a: Tensor, W_dec_b: Tensor, stores: tuple[ActivationStore, ActivationStore] | None) -> None:
    if W_dec_a.shape[1] != W_dec_b.shape[1]:
        raise ArtifactError(
            f"The decoders write to spaces of {W_dec_a.shape[1]} and {W_dec_b.shape[1]} dimensions: "
            "their directions cannot be compared."
        )
    if stores is None:
        return
    if [store.d_sae for store in stores] != [len(W_dec_a), len(W_dec_b)]:
        raise ArtifactError("The activation stores are not those of these SAEs. Delete them and run the index again.")
    if stores[0].plan["sequences_sha256"] != stores[1].plan["sequences_sha256"]:
        raise ArtifactError("The two SAEs were indexed on different sequences: index both on the same corpus.")


@dataclass
class _Pairs:
    """Pairs of features on the tokens of two stores: some rows at a time, each a feature of `a`."""

    a: ActivationStore
    b: ActivationStore
    tokens: int
    moments_a: "_Moments"
    moments_b: "_Moments"
    start: int = 0
    """The first feature of the rows that are held."""
    joint: NDArray[np.int32] | None = None
    product: NDArray[np.float64] | None = None

    @classmethod
    def of(cls, a: ActivationStore, b: ActivationStore) -> Self:
        return cls(a, b, a.plan["tokens"], _Moments.of(a), _Moments.of(b))

    def turned(self) -> "_Pairs":
        """The same, seen from the other side; without rows."""
        return _Pairs(self.b, self.a, self.tokens, self.moments_b, self.moments_a)

    def chunks(self) -> list[range]:
        """Positions in parts of at most `CHUNK_NONZEROS` of the store that has more."""
        denser = max(self.a, self.b, key=lambda store: sum(store.shard_nonzeros))
        return [denser.positions(shards) for shards in denser.shard_groups(CHUNK_NONZEROS)]

    def count_rows(self, start: int, stop: int, progress: Progress) -> None:
        """Hold the rows of features `start` to `stop - 1`."""
        shape = stop - start, self.b.d_sae
        self.start, self.joint, self.product = start, np.zeros(shape, np.int32), np.zeros(shape, np.float64)
        chunks = self.chunks()
        for number, positions in enumerate(chunks):
            table = TokenFeatureTable.of(self.b.block_on(0, self.b.d_sae, positions), positions)
            block = self.a.block_on(start, stop, positions)
            for done in add_joint(self.joint, block, table, self.product):
                progress(start + (number * (stop - start) + done) // len(chunks), self.a.d_sae)

    def rows(self, block: slice) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """[rows, m] joint counts, and correlations; 0 where one of two does not vary."""
        assert self.joint is not None
        assert self.product is not None
        held = slice(block.start - self.start, block.stop - self.start)
        a, b = self.moments_a, self.moments_b
        covariance = self.tokens * self.product[held] - a.total[block, None] * b.total
        scale = a.spread[block, None] * b.spread
        correlation = np.divide(covariance, scale, out=np.zeros_like(covariance), where=scale > 0)
        return self.joint[held], correlation.clip(-1, 1).astype(np.float32)


@dataclass(frozen=True)
class _Moments:
    """[d_sae] what a correlation needs of each feature's own activations, over all counted tokens."""

    total: NDArray[np.float64]
    spread: NDArray[np.float64]
    """√(tokens · Σf² − (Σf)²): the standard deviation times the number of tokens; 0 for a feature that is constant."""

    @classmethod
    def of(cls, store: ActivationStore) -> Self:
        sums = []
        for start, stop in store.feature_blocks(CHUNK_NONZEROS, store.d_sae):
            block = store.block(start, stop)
            values = block.value.astype(np.float64)
            sums.append(np.stack([segments.total(values, block.indptr), segments.total(values**2, block.indptr)]))
        total, squares = np.concatenate(sums, axis=1)
        variation = store.plan["tokens"] * squares - total**2
        # What rounding leaves of a difference of equal numbers is no variation.
        variation[variation < 1e-9 * total**2] = 0
        return cls(total, np.sqrt(variation))


@dataclass(frozen=True)
class _Best:
    """The best partners so far of each feature of one SAE, by three scores."""

    near: Partners
    coactive: Partners
    parent: Partners
    scores: NDArray[np.float32]
    """[3, n] of the three, -inf where there is none."""

    @classmethod
    def empty(cls, n: int) -> Self:
        near, coactive, parent = (Partners.none(n) for _ in range(3))
        return cls(near, coactive, parent, np.full((3, n), -np.inf, np.float32))

    def update_from(self, block: slice, first: int, scores: list[NDArray[np.float32]], measures: "_Measures") -> None:
        """Take better partners for the features in `block`.

        Args:
            block: of this SAE.
            first: number of the other SAE's feature in column 0.
            scores: [features of the block, others] by each of the three, -inf for what must not be chosen.
            measures: of the same pairs.
        """
        for which, (partners, score) in enumerate(zip((self.near, self.coactive, self.parent), scores, strict=True)):
            column = score.argmax(axis=1)  # the first of equal ones
            row = np.arange(len(score))
            better = score[row, column] > self.scores[which, block]  # so that an earlier one wins a tie
            row, column = row[better], column[better]
            place = block.start + row
            self.scores[which, place] = score[row, column]
            partners.ids[place] = first + column
            partners.cosine[place] = measures.cosine[row, column]
            partners.correlation[place] = measures.correlation[row, column]
            partners.joint[place] = measures.joint[row, column]


@dataclass(frozen=True)
class _Measures:
    """[features, others] of a block of pairs."""

    cosine: NDArray[np.float32]
    correlation: NDArray[np.float32]
    joint: NDArray[np.int32]

    def turned(self) -> "_Measures":
        return _Measures(self.cosine.T, self.correlation.T, self.joint.T)


def _rank(block: slice, cosine: NDArray[np.float32], pairs: _Pairs | None, a: _Best, b: _Best) -> None:
    """Let the features of `a` in `block`, and all of `b`, take what is better among these pairs."""
    nobody = np.broadcast_to(np.float32(-np.inf), cosine.shape)
    if pairs is None:
        zero = np.broadcast_to(np.float32(0), cosine.shape)
        measures = _Measures(cosine, zero, np.broadcast_to(np.int32(0), cosine.shape))
        correlated = parent_in_a = parent_in_b = nobody
    else:
        joint, correlation = pairs.rows(block)
        measures = _Measures(cosine, correlation, joint)
        correlated = np.where((joint >= COACTIVE_MIN_JOINT) & (correlation > 0), correlation, nobody)
        count_a, count_b = pairs.a.count[block, None], pairs.b.count[None, :]
        along = np.where(cosine >= PART_COSINE, cosine, nobody)
        parent_in_b = np.where(_is_part(joint, count_a, count_b, pairs.tokens), along, nobody)
        parent_in_a = np.where(_is_part(joint, count_b, count_a, pairs.tokens), along, nobody)
    a.update_from(block, 0, [cosine, correlated, parent_in_b], measures)
    everyone = slice(0, cosine.shape[1])
    b.update_from(everyone, block.start, [cosine.T, correlated.T, parent_in_a.T], measures.turned())


def _is_part(joint: NDArray[np.int32], count: Indices, parent_count: Indices, tokens: int) -> NDArray[np.bool_]:
    """Whether a feature of this `count` may be a part of the other, by the tokens that they are active on."""
    meant = (count >= PART_COUNT) & (parent_count > count) & (parent_count <= DENSE_DENSITY * tokens)
    return meant & (joint >= PART_GIVEN * count)


def _counterparts(this: _Best, other: _Best, pairs: _Pairs | None) -> Counterparts:
    n = len(this.near.ids)
    parts = np.bincount(other.parent.ids[other.parent.ids >= 0], minlength=n).astype(np.int32)
    return Counterparts(
        count=np.zeros(n, np.int64) if pairs is None else pairs.a.count,
        near=this.near,
        coactive=this.coactive,
        parent=this.parent,
        near_matched=_mutual(this.near, other.near) & (this.near.cosine >= MATCH_COSINE),
        coactive_matched=_mutual(this.coactive, other.coactive) & (this.coactive.correlation >= MATCH_CORRELATION),
        parts=parts,
        covered=np.zeros(n, np.int64) if pairs is None else _covered(pairs, other.parent.ids),
    )


def _mutual(this: Partners, other: Partners) -> NDArray[np.bool_]:
    """Whether the partner of each has it as its own partner."""
    found: NDArray[np.bool_] = (this.ids >= 0) & (other.ids[this.ids] == np.arange(len(this.ids)))
    return found


def _covered(pairs: _Pairs, parent: NDArray[np.int32]) -> Indices:
    """[features of a] tokens of each on which at least one of its parts, features of `b`, is active."""
    covered = np.zeros(pairs.a.d_sae, np.int64)
    for positions in pairs.chunks():
        theirs, own = (store.block_on(0, store.d_sae, positions) for store in (pairs.b, pairs.a))
        of = parent[theirs.row].astype(np.int64)
        is_part = of >= 0
        wanted = np.unique(of[is_part] * len(positions) + theirs.position[is_part] - positions.start)
        have = own.row.astype(np.int64) * len(positions) + own.position - positions.start  # ascending, as a block is
        place = np.searchsorted(have, wanted)
        hit = place < len(have)
        hit[hit] = have[place[hit]] == wanted[hit]
        covered += np.bincount(wanted[hit] // len(positions), minlength=pairs.a.d_sae)
    return covered
