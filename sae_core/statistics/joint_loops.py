"""Loops over the tokens that features share, compiled by numba and free of the interpreter's lock.

Imported when first called: numba takes half a second to import. Machine code is kept on disk.

Each goes through the tokens of a feature and adds to a counter of every feature that is active there; what it touched
is read, and cleared. Time is in proportion to the pairs that occur, whatever the number of features.
"""

from collections.abc import Callable
from typing import TypeVar, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

from sae_core.store.segments import Indices

Loop = TypeVar("Loop", bound=Callable[..., None])


def _compiled(loop: Loop) -> Loop:
    """Compile a loop when it is first called, for ever where machine code can be kept."""
    try:
        return cast(Loop, njit(nogil=True, cache=True)(loop))
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        return cast(Loop, njit(nogil=True)(loop))


@_compiled
def coactive(
    start: int,
    indptr: Indices,
    position: NDArray[np.int32],
    first: Indices,
    feature: NDArray[np.int32],
    count: Indices,
    tokens: int,
    floor: Indices,
    near: NDArray[np.int32],
    ids: NDArray[np.int32],
    score: NDArray[np.float64],
    together: Indices,
    joint_near: Indices,
) -> None:
    """Rank the co-active features of each feature; write what a feature shares with `near` ones.

    Args:
        start: the first feature of the block.
        indptr, position: [features + 1], [non-zeros] of the block.
        first, feature: [positions + 1], [non-zeros] of the token table.
        count: [d_sae] tokens on which each feature is active.
        tokens: counted tokens.
        floor: [features] joint tokens that a co-active feature has at least; 1 or more.
        near: [features, m] others; -1 = none.
        ids, score, together: [features, k] to write, by score = joint ÷ the other's count, descending, then by joint
            tokens, then by number; ids are -1 and the rest 0 where there are fewer.
        joint_near: [features, m] to write.
    """
    joint = np.zeros(len(count), np.int32)
    touched = np.empty(len(count) + 1, np.int32)
    k = ids.shape[1]
    for i in range(len(indptr) - 1):
        n = 0
        for own in range(indptr[i], indptr[i + 1]):
            token = position[own]
            for at in range(first[token], first[token + 1]):
                other = feature[at]
                touched[n] = other  # no branch: whether it is new cannot be foreseen
                n += joint[other] == 0
                joint[other] += 1
        joint[start + i] = 0
        for m in range(near.shape[1]):
            if near[i, m] >= 0:
                joint_near[i, m] = joint[near[i, m]]
        found = 0
        for t in range(n):
            other = touched[t]
            both = np.int64(joint[other])
            joint[other] = 0
            if both < floor[i] or both * tokens <= count[start + i] * count[other]:
                continue
            share = both / count[other]
            place = found
            while place > 0 and (
                share > score[i, place - 1]
                or (
                    share == score[i, place - 1]
                    and (
                        both > together[i, place - 1] or (both == together[i, place - 1] and other < ids[i, place - 1])
                    )
                )
            ):
                place -= 1
            if place == k:
                continue
            found = min(found + 1, k)
            for m in range(found - 1, place, -1):
                ids[i, m], score[i, m], together[i, m] = ids[i, m - 1], score[i, m - 1], together[i, m - 1]
            ids[i, place], score[i, place], together[i, place] = other, share, both


@_compiled
def shared(
    indptr: Indices,
    position: NDArray[np.int32],
    value: NDArray[np.float32],
    first: Indices,
    feature: NDArray[np.int32],
    other_value: NDArray[np.float32],
    least: int,
    asked_first: Indices,
    asked: Indices,
    joint: NDArray[np.int32],
    product: NDArray[np.float64],
    ends: Indices,
    column: NDArray[np.int32],
    column_joint: NDArray[np.int32],
    column_product: NDArray[np.float64],
    asked_joint: NDArray[np.int32],
    asked_product: NDArray[np.float64],
) -> None:
    """Count the tokens that features share with those of a table, and sum the products of their activations.

    Args:
        indptr, position, value: [features + 1], [non-zeros] of a block.
        first, feature, other_value: [positions + 1], [non-zeros] of the token table.
        least: a pair with fewer joint tokens is left out; 1 or more.
        asked_first, asked: [features + 1], [asked] features of the table to be told of, however few tokens they share.
        joint, product: [features of the table] zeros, to count in; zeros again at the end.
        ends: [features] to write: where each feature's pairs end in the next three.
        column, column_joint, column_product: [room for all pairs] to write, in no order within a feature.
        asked_joint, asked_product: [asked] to write.
    """
    touched = np.empty(len(joint) + 1, np.int32)
    end = 0
    for i in range(len(indptr) - 1):
        n = 0
        for own in range(indptr[i], indptr[i + 1]):
            token = position[own]
            x = np.float64(value[own])
            for at in range(first[token], first[token + 1]):
                other = feature[at]
                touched[n] = other  # no branch: whether it is new cannot be foreseen
                n += joint[other] == 0
                joint[other] += 1
                product[other] += x * other_value[at]
        for at in range(asked_first[i], asked_first[i + 1]):
            asked_joint[at], asked_product[at] = joint[asked[at]], product[asked[at]]
        for t in range(n):
            other = touched[t]
            if joint[other] >= least:
                column[end], column_joint[end], column_product[end] = other, joint[other], product[other]
                end += 1
            joint[other] = 0
            product[other] = 0
        ends[i] = end
