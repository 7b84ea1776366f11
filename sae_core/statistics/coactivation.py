"""Features that are active on the same tokens."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from sae_core.progress import Progress
from sae_core.statistics.spec import COACTIVE, COACTIVE_MIN_GIVEN_THIS, COACTIVE_MIN_JOINT
from sae_core.statistics.token_table import CHUNK_NONZEROS, TokenTable, fits
from sae_core.store.activation_store import ActivationStore, FeatureBlock
from sae_core.store.segments import Indices, bounds, concatenate, gather_ranges, rank_in_row, stable_argsort, top_k
from sae_core.threads import in_order

JOINT_BYTES = 512 << 20
"""Memory for joint counts with a store that is too large for a token table. It holds all pairs up to 11,585 features;
above that the store is read once per part of the pairs."""
TABLE_ROWS = 1 << 14
"""Most features whose lists are made at once with a token table."""
OWN_NONZEROS = 1 << 20
"""Non-zeros of the features that a thread ranks at once with it."""
CHUNK = 16
"""Active features of a token that are gathered together."""
ROWS = 256
"""Features ranked at once, and between two reports of progress."""


@dataclass(frozen=True)
class Coactive:
    """[features, 10] each; id -1 = none."""

    ids: NDArray[np.int32]
    pmi: NDArray[np.float32]
    joint: NDArray[np.int64]
    given_this: NDArray[np.float32]
    given_other: NDArray[np.float32]


def coactive_rows(store: ActivationStore) -> int:
    """Return of how many features the lists are made at once."""
    return TABLE_ROWS if fits(store, values=False) else max(1, JOINT_BYTES // (4 * store.d_sae))


def coactive_features(
    store: ActivationStore,
    features: range,
    tokens: int,
    near: NDArray[np.int32],
    progress: Progress,
    table: TokenTable | None = None,
) -> tuple[Coactive, Indices]:
    """Find the ten features with the highest pointwise mutual information, log (joint · tokens / (count · count)).

    In nats (Church and Hanks 1990); only positive ones, above both floors; ties by joint count, then by number.

    Args:
        store: activations.
        features: whose lists are wanted; no more than `coactive_rows`.
        tokens: counted tokens.
        near: [features, m] for each of them, others whose joint counts to return too; -1 = none.
        progress: in features.
        table: of the store, if it fits: then nothing else of the store is read than the features' own activations.

    Returns:
        The co-active features, and the joint counts with `near`.
    """
    if table is not None:
        return _by_token(store, features, tokens, near, progress, table)
    start, stop = features.start, features.stop
    joint = joint_counts(store, start, stop, progress)
    wanted = near.astype(np.int64)
    joint_near = np.where(wanted >= 0, np.take_along_axis(joint, wanted, axis=1), 0).astype(np.int64)
    parts = [_rank(joint[i : i + ROWS], start + i, store.count, tokens) for i in range(0, stop - start, ROWS)]
    return concatenate(parts), joint_near


def _by_token(
    store: ActivationStore, features: range, tokens: int, near: NDArray[np.int32], progress: Progress, table: TokenTable
) -> tuple[Coactive, Indices]:
    """Count and rank with a token table, in threads over blocks of features."""
    from sae_core.statistics import joint_loops  # numba

    def ranked(block: tuple[int, int]) -> tuple[Coactive, Indices]:
        start, stop = block
        own = store.block(start, stop)
        shape = stop - start, COACTIVE
        ids, score, together = np.full(shape, -1, np.int32), np.zeros(shape), np.zeros(shape, np.int64)
        near_own = near[start - features.start : stop - features.start]
        joint_near = np.zeros(near_own.shape, np.int64)
        floor = _floor(own.count)
        joint_loops.coactive(
            start, own.indptr, own.position, table.first, table.feature, store.count, tokens, floor,
            np.ascontiguousarray(near_own), ids, score, together, joint_near,
        )  # fmt: skip
        return _measured(ids, score, together, own.count[:, None], tokens), joint_near

    blocks = store.feature_blocks(OWN_NONZEROS, ROWS, features)
    parts = []
    for (_, stop), part in zip(blocks, in_order(ranked, blocks), strict=True):
        parts.append(part)
        progress(stop - features.start, len(features))
    return concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def joint_counts(store: ActivationStore, start: int, stop: int, progress: Progress) -> NDArray[np.int32]:
    """[stop - start, d_sae] tokens on which both features are active, exactly; 0 for a feature with itself."""
    joint = np.zeros((stop - start, store.d_sae), np.int32)
    groups = store.shard_groups(CHUNK_NONZEROS)
    for number, shards in enumerate(groups):
        chunk = store.block(0, store.d_sae, shards)
        for done in add_joint(joint, chunk.features(start, stop), TokenFeatureTable.of(chunk, store.positions(shards))):
            progress((number * len(joint) + done) // len(groups), len(joint))
    joint[np.arange(len(joint)), np.arange(start, stop)] = 0
    return joint


@dataclass(frozen=True)
class TokenFeatureTable:
    """The active features of each token of some shards, in lines of `CHUNK` features; a token's last line is padded.

    Gathering whole lines is several times faster than gathering features one by one.
    """

    n_features: int
    positions: range
    """Of the shards."""
    lines: NDArray[np.int64]
    """[lines, CHUNK] features; `n_features` is the padding."""
    first_line: Indices
    """[positions + 1] each token's first line."""
    n_lines: Indices
    """[positions] lines per token."""

    @classmethod
    def of(cls, chunk: FeatureBlock, positions: range) -> "TokenFeatureTable":
        """Build the table of all tokens of `chunk`, which are at `positions`."""
        token = chunk.position.astype(np.int64) - positions.start
        by_token = stable_argsort(token)
        n_lines = -(-np.bincount(token, minlength=len(positions)) // CHUNK)  # the ceiling
        first_line = bounds(n_lines)
        ordered = token[by_token]
        place = first_line[ordered] * CHUNK + rank_in_row(ordered, len(positions))
        lines = np.full((first_line[-1], CHUNK), chunk.n_features, np.int64)
        lines.reshape(-1)[place] = chunk.row[by_token]
        return cls(chunk.n_features, positions, lines, first_line, n_lines)


def add_joint(joint: NDArray[np.int32], block: FeatureBlock, table: TokenFeatureTable) -> Iterator[int]:
    """Count the tokens on which features of `block` and of `table` are both active; yield how many rows are done.

    Each non-zero of `block` is paired with all features of its token, so the work is the sum over tokens of the number
    of features active in `block` times the number of those in `table`.

    Args:
        joint: [features of the block, features of the table] counts to add to.
        block: activations on the table's positions, of the same SAE or another.
        table: active features per token.
    """
    n = table.n_features
    for i in range(block.n_features):
        own = slice(block.indptr[i], block.indptr[i + 1])
        token = block.position[own].astype(np.int64) - table.positions.start
        n_lines = table.n_lines[token]
        lines = gather_ranges(table.first_line[token], n_lines)
        cooccurring = table.lines.take(lines, axis=0).reshape(-1)
        joint[i] += np.bincount(cooccurring, minlength=n + 1)[:n].astype(np.int32)
        if (i + 1) % ROWS == 0 or i + 1 == block.n_features:
            yield i + 1


def _rank(joint: NDArray[np.int32], start: int, counts: Indices, tokens: int) -> Coactive:
    """Rank the co-active features of features `start` and up by their rows of joint counts."""
    together = joint.astype(np.int64)
    count = counts[start : start + len(joint), None]
    eligible = (together >= _floor(count)) & (together * tokens > count * counts)
    # Among one feature's pairs, PMI orders as P(this | other) does, and that is one division: equal ones stay equal.
    given_other = together / np.maximum(counts, 1)
    score = torch.from_numpy(np.where(eligible, given_other, -np.inf))
    ids, chosen = top_k(score, COACTIVE, then=torch.from_numpy(together))
    number = np.where(ids >= 0, np.take_along_axis(together, ids.astype(np.int64), axis=1), 0)
    return _measured(ids, chosen, number, count, tokens)


def _floor(count: Indices) -> Indices:
    """Return the joint tokens that co-active features of features of these counts have at least."""
    floor: Indices = np.maximum(COACTIVE_MIN_JOINT, np.ceil(COACTIVE_MIN_GIVEN_THIS * count)).astype(np.int64)
    return floor


def _measured(
    ids: NDArray[np.int32], given_other: NDArray[np.float64], joint: Indices, count: Indices, tokens: int
) -> Coactive:
    """Return the measures of chosen pairs; [features, 10], and `count` [features, 1]."""
    pmi = np.log(np.where(ids >= 0, given_other * tokens / np.maximum(count, 1), 1))
    given_this = joint / np.maximum(count, 1)
    return Coactive(ids, pmi.astype(np.float32), joint, given_this.astype(np.float32), given_other.astype(np.float32))
