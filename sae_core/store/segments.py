"""Arithmetic on runs of one long array: sorted, reduced, gathered and ranked without a loop over the runs.

A *segment* is the run `indptr[i]:indptr[i + 1]`; segments may be empty. A *row* is the number of an entry's segment.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from torch import Tensor

Indices = NDArray[np.int64]
Table = TypeVar("Table")


def bounds(lengths: NDArray[Any]) -> Indices:
    """Return the `indptr` of segments of the given lengths."""
    indptr = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=indptr[1:])
    return indptr


def row_bounds(rows: NDArray[Any], n_rows: int) -> Indices:
    """Return the `indptr` of rows that are sorted ascending."""
    return bounds(np.bincount(rows, minlength=n_rows))


def run_starts(*keys: NDArray[Any]) -> Indices:
    """Return the indices at which a new run of equal keys starts."""
    changed = np.zeros(len(keys[0]), bool)
    changed[:1] = True
    for key in keys:
        changed[1:] |= key[1:] != key[:-1]
    return np.flatnonzero(changed)


def distinct(keys: Indices) -> Indices:
    """Return the distinct keys, ascending.

    `np.unique` gives the same by a hash table, which takes fifteen times as long for five million whole numbers.
    """
    ordered = np.sort(keys)
    return ordered[run_starts(ordered)]


def rank_in_row(rows: NDArray[Any], n_rows: int) -> Indices:
    """Number the entries of each row from 0, for rows that are sorted ascending."""
    first: Indices = row_bounds(rows, n_rows)[rows]
    return np.arange(len(rows)) - first


def stable_argsort(keys: NDArray[np.signedinteger[Any]]) -> Indices:
    """Return the stable order by key; torch sorts non-negative integers by radix, several times faster."""
    order: Indices = torch.from_numpy(keys).sort(stable=True).indices.numpy()
    return order


def stable_order(rows: NDArray[Any], keys: NDArray[np.uint32]) -> Indices:
    """Return the stable order by (row, key); a row must be below 2^31."""
    return stable_argsort((rows.astype(np.int64) << 32) | keys)


def gather_ranges(starts: Indices, lengths: Indices) -> Indices:
    """Return the indices `starts[i]` to `starts[i] + lengths[i] - 1` of all ranges, one range after the other."""
    indptr = bounds(lengths)
    return np.arange(indptr[-1]) + np.repeat(starts - indptr[:-1], lengths)


def maximum(values: NDArray[np.float32], indptr: Indices) -> NDArray[np.float32]:
    """Return the maximum of each segment of positive values; 0 for an empty one."""
    return _reduce(np.maximum, values, indptr)


def minimum(values: Indices, indptr: Indices) -> Indices:
    """Return the minimum of each segment; 0 for an empty one."""
    return _reduce(np.minimum, values, indptr)


def total(values: NDArray[np.float64], indptr: Indices) -> NDArray[np.float64]:
    """Return the sum of each segment; 0 for an empty one."""
    return _reduce(np.add, values, indptr)


def _reduce(operation: np.ufunc, values: NDArray[Any], indptr: Indices) -> NDArray[Any]:
    # reduceat gives values[start] for an empty segment, so only the filled ones are reduced; they are adjacent.
    filled = np.flatnonzero(np.diff(indptr))
    result = np.zeros(len(indptr) - 1, values.dtype)
    if len(filled):
        result[filled] = operation.reduceat(values, indptr[filled])
    return result


def top_k(
    scores: Float[Tensor, "row column"], k: int, *, then: Float[Tensor, "row column"] | None = None
) -> tuple[NDArray[np.int32], NDArray[Any]]:
    """Return the `k` highest scores of each row; ties by `then` (higher first), then by column (lower first).

    `torch.topk` leaves open which of equal scores it gives, so rows where that matters are ranked again.

    Args:
        scores: -inf marks what must not be chosen.
        k: scores per row.
        then: decides between equal scores.

    Returns:
        The columns `[row, k]`, -1 where a row has no more to choose from, and their scores, 0 there.
    """
    n_rows, n_columns = scores.shape
    columns = np.full((n_rows, k), -1, np.int32)
    values = torch.zeros((n_rows, k), dtype=scores.dtype).numpy()
    if not scores.numel():
        return columns, values
    best = scores.topk(min(k + 1, n_columns), dim=1)
    row = torch.arange(n_rows, device=scores.device)[:, None].expand_as(best.indices)
    contested = _contested(best.values, k)
    settled = ~contested[:, None] & (best.values > -torch.inf)
    rivals_of = torch.nonzero(contested)[:, 0]
    rivals = torch.nonzero(scores[rivals_of] >= best.values[rivals_of, -1:], as_tuple=True)
    place = torch.cat([row[settled], rivals_of[rivals[0]]]), torch.cat([best.indices[settled], rivals[1]])
    _fill(columns, values, place, scores, then)
    return columns, values


def _contested(best: Float[Tensor, "row best"], k: int) -> Bool[Tensor, " row"]:
    """Rows whose k-th score is the next one's too, so that `topk` chose between equals."""
    if best.shape[1] <= k:
        return torch.zeros(len(best), dtype=torch.bool, device=best.device)
    return (best[:, k - 1] == best[:, k]) & (best[:, k] > -torch.inf)


def _fill(
    columns: NDArray[np.int32],
    values: NDArray[Any],
    place: tuple[Tensor, Tensor],
    scores: Float[Tensor, "row column"],
    then: Float[Tensor, "row column"] | None,
) -> None:
    """Rank the candidates at `place` (row, column) within their rows, and write the first ones."""
    score = scores[place].cpu().numpy()
    ties = [] if then is None else [-then[place].cpu().numpy()]
    row, column = (index.cpu().numpy() for index in place)
    order = np.lexsort((column, *ties, -score, row))
    row, column, score = row[order], column[order], score[order]
    rank = rank_in_row(row, len(columns))
    kept = rank < columns.shape[1]
    columns[row[kept], rank[kept]] = column[kept]
    values[row[kept], rank[kept]] = score[kept]


def cut(sizes: Sequence[float], max_size: float, max_items: int) -> list[tuple[int, int]]:
    """Cut items into consecutive (start, stop), each within both limits, or of one item that is larger alone."""
    cuts, start, size = [], 0, 0.0
    for i, item in enumerate(sizes):
        if i > start and (size + item > max_size or i - start >= max_items):
            cuts.append((start, i))
            start, size = i, 0.0
        size += item
    return [*cuts, (start, len(sizes))] if len(sizes) else []


def concatenate(parts: Sequence[Table]) -> Table:
    """Join dataclasses of arrays, row by row."""
    names = [field.name for field in dataclasses.fields(parts[0])]  # type: ignore[arg-type]
    return type(parts[0])(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))
