"""Directions of the highest cosine, exactly, among all pairs of two sets.

All pairs of 131,072 features in 768 dimensions are 26 trillion operations: in float32 three minutes on two cores.
So the product may be taken in bfloat16, where the processor is faster in it, and only what it cannot rule out is
computed in float32. If rounding moves no row of `a` by more than r_a, and none of `b` by more than r_b, the product of
rounded rows is off by at most

    r = r_a + r_b (1 + r_a),

so each of the k highest has a product that is at least the k-th highest product less 2 r, and less what rounding the
products themselves may hide. All of these are looked at again, and the result is exact. Memory is a few blocks of rows
of the table of pairs, never the table.
"""

import time
import warnings
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int64
from numpy.typing import NDArray
from torch import Tensor

from sae_core.progress import Progress, silent
from sae_core.store import segments

ROWS = 256
"""Rows of the table of pairs held at once."""
GROUP = 64
"""Columns whose maximum decides whether they are looked at one by one."""
CROWD = 256
"""A row with more candidates, such as one of zeros, is ranked over all columns instead."""
PAIRS = 1 << 16
"""Pairs whose rows are gathered at once, on a GPU."""
SLACK = 1e-4
"""Bound on what float32 sums of 10,000 products are off by."""
TRIED = 4096
"""Columns of the product that decides which precision is faster."""


def unit_rows(W: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Return the rows at length 1 in float32, in memory where all of this module runs; zeros stay zeros."""
    known = W if W.device.type in ("cpu", "cuda") else W.cpu()
    return torch.nn.functional.normalize(known.detach().float(), dim=1)


@torch.no_grad()
def nearest_others(
    unit: Float[Tensor, "n d"], k: int, progress: Progress = silent
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Find for each row the `k` other rows with the highest cosine; ties by number.

    Args:
        unit: rows of length 1 or 0.
        k: others per row.
        progress: in rows.

    Returns:
        Their numbers [n, k], -1 where there are no more, and their cosines, 0 there.
    """
    table = Table(unit, unit, itself=True)
    ids, cosine = [], []
    for start, products in table.blocks(progress):
        found = table.best_of_rows(start, products, k)
        ids.append(found[0])
        cosine.append(found[1])
    return np.concatenate(ids), np.concatenate(cosine)


@torch.no_grad()
def nearest_of_both(
    unit_a: Float[Tensor, "n d"], unit_b: Float[Tensor, "m d"], progress: Progress = silent
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Find for each row of `a` the row of `b` with the highest cosine, and for each of `b` that of `a`; ties by number.

    Args:
        unit_a: rows of length 1 or 0.
        unit_b: the same, of as many dimensions.
        progress: in rows of `a`.

    Returns:
        [n] numbers of rows of `b`, and [m] numbers of rows of `a`.
    """
    table = Table(unit_a, unit_b)
    in_b, highest = [], table.rounded_a.new_empty(-(-len(unit_a) // ROWS), len(unit_b))
    for start, products in table.blocks(progress):
        highest[start // ROWS] = products[:, : len(unit_b)].amax(dim=0)
        in_b.append(table.best_of_rows(start, products, 1)[0][:, 0])
    return np.concatenate(in_b), table.best_of_columns(highest)


class Table:
    """All cosines of the rows of `a` and `b`, never held whole."""

    def __init__(self, a: Float[Tensor, "n d"], b: Float[Tensor, "m d"], *, itself: bool = False) -> None:
        """Prepare the products; with `itself`, `a` is `b`, and no row is its own neighbour."""
        self.a, self.b, self.itself = a, b, itself
        dtype = _faster_precision(a, b)
        self.rounded_a = a.to(dtype)
        self.rounded_b = self.rounded_a if itself else b.to(dtype)
        r_a, r_b = (
            float((exact - rounded.float()).norm(dim=1).amax())
            for exact, rounded in ((a, self.rounded_a), (b, self.rounded_b))
        )
        self.moved = 2 * (r_a + r_b * (1 + r_a) + SLACK)

    def _below(self, highest: Float[Tensor, " row"]) -> Float[Tensor, " row"]:
        """Return a bound below the products of all pairs whose cosine may be as high as that of these products."""
        rounding = 2 * torch.finfo(highest.dtype).eps * (highest.float().abs() + self.moved)
        bound = highest.float() - self.moved - rounding
        return bound.clamp_min_(-2).to(highest.dtype)  # what is -inf must not be chosen

    def blocks(self, progress: Progress) -> Iterator[tuple[int, Float[Tensor, "row column"]]]:
        """Yield the first row of each block and its products, with columns of -inf up to whole groups."""
        n, m = len(self.a), len(self.b)
        for start in range(0, n, ROWS):
            rows = self.rounded_a[start : start + ROWS]
            products = rows.new_full((len(rows), -(-m // GROUP) * GROUP), -torch.inf)
            for first in range(0, m, TRIED):  # parts of the columns stay in the cache
                part = self.rounded_b[first : first + TRIED]
                products[:, first : first + len(part)] = rows @ part.T
            if self.itself:
                products.diagonal(offset=start).fill_(-torch.inf)
            yield start, products
            progress(min(start + ROWS, n), n)

    def best_of_rows(
        self, start: int, products: Float[Tensor, "row column"], k: int
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return the `k` best columns of each row of a block, and their cosines."""
        grouped = products.view(len(products), -1, GROUP)
        highest = grouped.amax(dim=2)
        # The k-th highest of the groups' maxima is not above the k-th highest of all.
        kth = highest.topk(k, dim=1).values[:, -1] if highest.shape[1] >= k else highest.new_full((len(highest),), -1)
        floor = self._below(kth)
        is_near = highest >= floor[:, None]
        crowded = is_near.sum(dim=1) > CROWD
        row, group = torch.nonzero(is_near & ~crowded[:, None], as_tuple=True)
        which, place = torch.nonzero(grouped[row, group] >= floor[row, None], as_tuple=True)
        row, column = row[which], group[which] * GROUP + place
        crowded |= torch.bincount(row, minlength=len(products)) > CROWD
        row, column = row[~crowded[row]], column[~crowded[row]]
        own = self.a[start : start + len(products)]
        ids, cosine = _best(row, column, cosines(own, self.b, row, column), len(products), k)
        for some in torch.split(torch.nonzero(crowded)[:, 0], ROWS):
            whole = self.a[some + start] @ self.b.T
            if self.itself:
                whole[torch.arange(len(some)), some + start] = -torch.inf
            ids[some.cpu().numpy()], cosine[some.cpu().numpy()] = segments.top_k(whole, k)
        return ids, cosine

    def best_of_columns(self, highest: Float[Tensor, "block column"]) -> NDArray[np.int32]:
        """Return the best row of each column, from the highest product that it has in each block of rows."""
        floor = self._below(highest.amax(dim=0))
        best = np.full(len(self.b), -1, np.int32)
        cosine = np.full(len(self.b), -np.inf, np.float32)
        for block, products in enumerate(highest):
            for columns in torch.split(torch.nonzero(products >= floor)[:, 0], TRIED):
                rows = self.a[block * ROWS : (block + 1) * ROWS]
                whole = self.b[columns] @ rows.T
                close = whole >= whole.amax(dim=1, keepdim=True) - 2 * SLACK
                column, row = torch.nonzero(close, as_tuple=True)
                if len(column) > CROWD * len(columns) // 2:  # rows of zeros, or all alike
                    found, value = segments.top_k(whole, 1)
                else:
                    found, value = _best(column, row, cosines(self.b[columns], rows, column, row), len(columns), 1)
                at = columns.cpu().numpy()
                better = value[:, 0] > cosine[at]
                best[at[better]] = found[better, 0] + block * ROWS
                cosine[at[better]] = value[better, 0]
        return best


def cosines(
    unit_a: Float[Tensor, "n d"],
    unit_b: Float[Tensor, "m d"],
    row: Int64[Tensor, " pair"],
    column: Int64[Tensor, " pair"],
) -> Float[Tensor, " pair"]:
    """Return the products of some pairs of rows, in ascending order of `row`; equal pairs have equal ones."""
    if row.device.type != "cpu":
        parts = zip(torch.split(row, PAIRS), torch.split(column, PAIRS), strict=True)
        return torch.cat([(unit_a[i] * unit_b[j]).sum(dim=1) for i, j in parts])
    # Ten times as fast on a processor as gathering the rows.
    start = torch.from_numpy(segments.row_bounds(row.cpu().numpy(), len(unit_a))).to(row.device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls all sparse layouts a beta
        pattern = torch.sparse_csr_tensor(start, column, unit_a.new_zeros(len(row)), (len(unit_a), len(unit_b)))
        found: Tensor = torch.sparse.sampled_addmm(pattern, unit_a, unit_b.T, beta=0.0)
    return found.values()


def _best(
    row: Int64[Tensor, " pair"], column: Int64[Tensor, " pair"], cosine: Float[Tensor, " pair"], n: int, k: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return the `k` columns of the highest cosine of each of `n` rows, among these pairs; ties by column."""
    rows, columns, values = row.cpu().numpy(), column.cpu().numpy(), cosine.cpu().numpy()
    order = np.lexsort((columns, -values, rows))
    rows, columns, values = rows[order], columns[order], values[order]
    rank = segments.rank_in_row(rows, n)
    kept = rank < k
    ids, best = np.full((n, k), -1, np.int32), np.zeros((n, k), np.float32)
    ids[rows[kept], rank[kept]] = columns[kept]
    best[rows[kept], rank[kept]] = values[kept]
    return ids, best


def _faster_precision(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> torch.dtype:
    """Return the precision in which this processor multiplies faster; the result does not depend on it."""
    if a.device.type != "cpu" or len(b) < TRIED:
        return torch.float32
    rows, columns = a[:ROWS], b[:TRIED]
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        left, right = rows.to(dtype), columns.to(dtype)
        times = []
        for _ in range(3):
            began = time.perf_counter()
            left @ right.T
            times.append(time.perf_counter() - began)
        seconds[dtype] = min(times)
    return min(seconds, key=lambda dtype: seconds[dtype])
