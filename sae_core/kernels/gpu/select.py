# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
"""Exact selection by the bit patterns of pre-activations, in fixed shapes.

The bit pattern of a positive float, as an integer, orders as the float does; what is not positive counts as 0. The
k-th largest pattern is found digit by digit, highest first: of a row in registers, of a batch by histograms. It is
found first among the peaks of groups (`sae_core.kernels.gpu.product`), then among the entries of k of the groups. That
is exact: let p be the k-th largest peak, so that k groups hold an entry of at least p. If the k-th largest entry is
above p, so are the peaks of all groups that hold an entry as large; if it is p, the groups with larger peaks hold all
larger entries, and each group with peak p has an entry that may take one of the places left.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from sae_core.kernels.gpu.launch import cdiv, next_power_of_2
from sae_core.kernels.gpu.product import GROUP, group_peaks

BLOCK = 4096
"""Entries that a program of the batch's selection looks at."""


@dataclass(frozen=True)
class Entries:
    """Active entries of a `[batch, d_sae]` matrix, ordered by row, then feature, with empty places between or behind.

    An empty place has the value 0, the feature `d_sae` and, behind the last row, the row `batch`.
    """

    values: Float[Tensor, " capacity"]
    """In float32, above 0."""
    features: Int[Tensor, " capacity"]
    """int32."""
    rows: Int[Tensor, " capacity"]
    """int32."""
    starts: Int[Tensor, " batch"]
    """int32: where each row's entries start."""
    ends: Int[Tensor, " batch"]
    """int32: where they end."""
    d_sae: int


def row_topk(pre: Float[Tensor, "batch d_sae"], peaks: Float[Tensor, "batch groups"], k: int) -> Entries:
    """Return the k largest of each row, where positive; of entries that tie for the last place, the first ones.

    Args:
        pre: float32 or bfloat16.
        peaks: the largest of each group of features, as `pre_activations` and `group_peaks` give them.
        k: places for each row, at most `d_sae` and `gpu.MOST`.
    """
    (batch, d_sae), groups = pre.shape, peaks.shape[1]
    kept_groups = min(k, groups)
    chosen = torch.full((batch, kept_groups), groups, dtype=torch.int32, device=pre.device)
    shift = unused_bits(pre)
    _row_groups[(batch,)](
        peaks, chosen, groups, kept_groups, SHIFT=shift, BLOCK=next_power_of_2(groups),
        num_warps=_row_warps(groups),
    )  # fmt: skip
    entries = _no_entries(pre, batch * k)
    entries.rows.copy_(torch.arange(batch, device=pre.device)[:, None].expand(batch, k).reshape(-1))
    entries.starts.copy_(torch.arange(0, batch * k, k, device=pre.device))
    width = next_power_of_2(kept_groups) * GROUP
    _row_entries[(batch,)](
        pre, chosen, entries.values, entries.features, entries.ends, d_sae, groups, kept_groups, k,
        SHIFT=shift, GROUP=GROUP, WIDTH=width, num_warps=_row_warps(width),
    )  # fmt: skip
    return entries


def batch_topk(pre: Float[Tensor, "batch d_sae"], peaks: Float[Tensor, "batch groups"], count: int) -> Entries:
    """The `count` largest of the whole batch, where positive; of entries that tie for the last place, the first ones.

    Args:
        pre: float32 or bfloat16, of fewer than 2^31 groups and `count · GROUP` below 2^31.
        peaks: as for `row_topk`.
        count: places for the batch, at most the size of `pre`.
    """
    batch = len(pre)
    kept_groups = min(count, peaks.numel())
    chosen = torch.full((kept_groups,), peaks.numel(), dtype=torch.int32, device=pre.device)
    # A peak is an entry of a [batch, groups] matrix that is itself in groups of one.
    _largest(peaks, None, 1, kept_groups, (chosen,))
    entries = _no_entries(pre, count)
    _largest(pre, chosen, GROUP, count, (entries.values, entries.features, entries.rows))
    borders = torch.searchsorted(entries.rows, torch.arange(batch + 1, dtype=torch.int32, device=pre.device))
    entries.starts.copy_(borders[:-1])
    entries.ends.copy_(borders[1:])
    return entries


def row_positions(pre: Float[Tensor, "batch d_sae"], k: int) -> Int[Tensor, " active"]:
    """Positions in the flattened matrix, ascending, of what `row_topk` selects. Waits for the device to count them."""
    pre = pre.detach().contiguous()
    return _positions(row_topk(pre, group_peaks(pre), min(k, pre.shape[1])))


def batch_positions(pre: Float[Tensor, "batch d_sae"], count: int) -> Int[Tensor, " active"]:
    """The same of what `batch_topk` selects."""
    pre = pre.detach().contiguous()
    return _positions(batch_topk(pre, group_peaks(pre), count))


def _positions(entries: Entries) -> Int[Tensor, " active"]:
    return (entries.rows.long() * entries.d_sae + entries.features)[entries.features < entries.d_sae]


def _no_entries(pre: Float[Tensor, "batch d_sae"], capacity: int) -> Entries:
    batch, d_sae = pre.shape

    def filled(size: int, value: int) -> Tensor:
        return torch.full((size,), value, dtype=torch.int32, device=pre.device)

    return Entries(
        values=torch.zeros(capacity, device=pre.device),
        features=filled(capacity, d_sae),
        rows=filled(capacity, batch),
        starts=filled(batch, 0),
        ends=filled(batch, 0),
        d_sae=d_sae,
    )


def _largest(
    matrix: Float[Tensor, "batch columns"],
    chosen: Int[Tensor, " groups"] | None,
    span: int,
    count: int,
    outputs: tuple[Tensor, ...],
) -> None:
    """Write where the `count` largest positive entries are, in order.

    Args:
        matrix: is in groups of `span` columns.
        chosen: the groups that are looked at, by number; None is all. Numbers past the last one are empty places.
        span: columns of a group.
        count: places.
        outputs: positions, or values, columns and rows.
    """
    batch, columns = matrix.shape
    groups = cdiv(columns, span)
    size = (batch * groups if chosen is None else len(chosen)) * span
    programs = cdiv(size, BLOCK)
    # The bits found so far, and how many of the entries that have them are wanted.
    state = torch.zeros(2, dtype=torch.int32, device=matrix.device)
    state[1:].fill_(count)
    bins = torch.zeros(256, dtype=torch.int32, device=matrix.device)
    counts = torch.empty(2, programs, dtype=torch.int32, device=matrix.device)
    shape = (matrix, matrix if chosen is None else chosen, batch, columns, groups, size)
    options = {
        "SPAN": span, "ALL": chosen is None, "SHIFT": unused_bits(matrix), "BLOCK": BLOCK, "num_warps": 8,
    }  # fmt: skip
    for low in range(24 - unused_bits(matrix), -1, -8):
        _count_digits[(programs,)](*shape, state, bins, low, **options)
        _pick_digit[(1,)](state, bins, low, num_warps=4)
    _count_kept[(programs,)](*shape, state, counts, programs, **options)
    before = counts.cumsum(dim=1, dtype=torch.int32).sub_(counts)
    _write_kept[(programs,)](*shape, state, before, programs, outputs[0], outputs[-2 % len(outputs)], outputs[-1],
        POSITIONS=len(outputs) == 1, **options)  # fmt: skip


def unused_bits(values: Tensor) -> int:
    """Low bits of a float32 that are zero in all numbers of the type."""
    return 16 if values.dtype == torch.bfloat16 else 0


def _row_warps(width: int) -> int:
    return max(1, min(16, width // 512))


@triton.jit
def key_of(value, SHIFT: tl.constexpr):
    """The bits of what is positive, less those that the type never sets; else 0."""
    bits = value.to(tl.float32).to(tl.int32, bitcast=True) >> SHIFT
    return tl.where(value > 0, bits, 0)


@triton.jit
def _largest_key(keys, count, SHIFT: tl.constexpr):
    """The `count`-th largest key; 0 where fewer are above 0. Bit by bit, highest first."""
    floor = 0
    for step in range(31 - SHIFT):
        raised = floor | (1 << (30 - SHIFT - step))
        enough = tl.sum((keys >= raised).to(tl.int32)) >= count
        floor = tl.where(enough, raised, floor)
    return floor


@triton.jit
def _kept(keys, count, SHIFT: tl.constexpr):
    """Mark the `count` largest keys of a row above 0; of those that tie for the last place, the first ones."""
    last = _largest_key(keys, count, SHIFT)
    larger = keys > last
    equal = (keys == last) & (keys > 0)
    places = count - tl.sum(larger.to(tl.int32))
    return larger | (equal & (tl.cumsum(equal.to(tl.int32), 0) <= places))


@triton.jit
def _row_groups(peaks, chosen, groups, count, SHIFT: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    group = tl.arange(0, BLOCK)
    peak = tl.load(peaks + row * groups + group, mask=group < groups, other=0.0)
    kept = _kept(key_of(peak, SHIFT), count, SHIFT)
    place = tl.cumsum(kept.to(tl.int32), 0) - 1
    tl.store(chosen + row * count + place, group, mask=kept)


@triton.jit
def _row_entries(
    pre, chosen, values, features, ends, d_sae, groups, kept_groups, k,
    SHIFT: tl.constexpr, GROUP: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, WIDTH)
    listed = lane // GROUP < kept_groups
    group = tl.load(chosen + row * kept_groups + lane // GROUP, mask=listed, other=groups)
    feature = group * GROUP + lane % GROUP
    value = tl.load(pre + row * d_sae + feature, mask=feature < d_sae, other=0.0)
    kept = _kept(key_of(value, SHIFT), k, SHIFT)
    place = row * k + tl.cumsum(kept.to(tl.int32), 0) - 1
    tl.store(values + place, value.to(tl.float32), mask=kept)
    tl.store(features + place, feature, mask=kept)
    tl.store(ends + row, row * k + tl.sum(kept.to(tl.int32)))


@triton.jit
def _look(
    matrix, chosen, batch, columns, groups, size, SPAN: tl.constexpr, ALL: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """The value, row and column of each entry of this program's block; 0 in an empty place."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    if ALL:  # noqa: SIM108 - decided when the kernel is compiled
        group = at // SPAN
    else:
        group = tl.load(chosen + at // SPAN, mask=at < size, other=batch * groups)
    row = group // groups
    column = group % groups * SPAN + at % SPAN
    value = tl.load(
        matrix + row.to(tl.int64) * columns + column, mask=(at < size) & (row < batch) & (column < columns), other=0.0
    )
    return value, row, column


@triton.jit
def _count_digits(
    matrix, chosen, batch, columns, groups, size, state, bins, low,
    SPAN: tl.constexpr, ALL: tl.constexpr, SHIFT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    value, _, _ = _look(matrix, chosen, batch, columns, groups, size, SPAN, ALL, BLOCK)
    key = key_of(value, SHIFT)
    # Two shifts: the highest digit would need one by 32, which is not defined.
    agrees = (key >> low >> 8) == (tl.load(state) >> low >> 8)
    count = tl.histogram((key >> low) & 255, 256, mask=(key > 0) & agrees)
    digit = tl.arange(0, 256)
    tl.atomic_add(bins + digit, count, mask=count > 0, sem="relaxed")


@triton.jit
def _pick_digit(state, bins, low):
    """Take the largest digit that enough entries reach, and empty the bins; 0 where too few entries are positive."""
    digit = tl.arange(0, 256)
    count = tl.load(bins + digit)
    tl.store(bins + digit, tl.zeros([256], tl.int32))
    wanted = tl.load(state + 1)
    reach = tl.sum(count) - tl.cumsum(count, 0) + count
    picked = tl.max(tl.where(reach >= wanted, digit, 0))
    larger = tl.sum(tl.where(digit > picked, count, 0))
    tl.store(state, tl.load(state) | (picked << low))
    tl.store(state + 1, wanted - larger)


@triton.jit
def _compare(value, state, SHIFT: tl.constexpr):
    """Mark the entries above the last one that is kept, and those that tie with it."""
    key = key_of(value, SHIFT)
    last = tl.load(state)
    return key > last, (key == last) & (key > 0)


@triton.jit
def _count_kept(
    matrix, chosen, batch, columns, groups, size, state, counts, programs,
    SPAN: tl.constexpr, ALL: tl.constexpr, SHIFT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    value, _, _ = _look(matrix, chosen, batch, columns, groups, size, SPAN, ALL, BLOCK)
    larger, equal = _compare(value, state, SHIFT)
    tl.store(counts + tl.program_id(0), tl.sum(larger.to(tl.int32)))
    tl.store(counts + programs + tl.program_id(0), tl.sum(equal.to(tl.int32)))


@triton.jit
def _write_kept(
    matrix, chosen, batch, columns, groups, size, state, before, programs, values, features, rows,
    POSITIONS: tl.constexpr, SPAN: tl.constexpr, ALL: tl.constexpr, SHIFT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    value, row, column = _look(matrix, chosen, batch, columns, groups, size, SPAN, ALL, BLOCK)
    larger, equal = _compare(value, state, SHIFT)
    places = tl.load(state + 1)
    equal_before = tl.load(before + programs + tl.program_id(0))
    kept = larger | (equal & (equal_before + tl.cumsum(equal.to(tl.int32), 0) <= places))
    first = tl.load(before + tl.program_id(0)) + tl.minimum(equal_before, places)
    place = first + tl.cumsum(kept.to(tl.int32), 0) - 1
    if POSITIONS:
        tl.store(values + place, row * columns + column, mask=kept)
    else:
        tl.store(values + place, value.to(tl.float32), mask=kept)
        tl.store(features + place, column, mask=kept)
        tl.store(rows + place, row, mask=kept)
