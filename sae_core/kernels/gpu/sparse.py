# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
"""Sparse decode and sparse gradients: gathers of rows, k·d entries per token.

At d = 768 and k = 32 a gather in bfloat16 moves 49 kB per token, from the L2 cache if the dictionary or batch fits
into it (25 MB for 16,384 rows). Gradients of a dictionary are gathers too: entries are sorted by feature, and each
feature's rows are summed in order, so nothing is added atomically.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from sae_core.kernels.gpu.launch import accumulator, lanes, row_block, warps
from sae_core.kernels.gpu.select import Entries

PART = 256
"""Entries of one feature that one program sums: a feature that most tokens have would else keep all others waiting."""


def decode(
    values: Float[Tensor, " capacity"],
    features: Int[Tensor, " capacity"],
    starts: Int[Tensor, " batch"],
    ends: Int[Tensor, " batch"],
    decoder: Float[Tensor, "d_sae d_in"],
) -> Float[Tensor, "batch d_in"]:
    """Σ values · decoder[feature] over the entries from `starts` to `ends` of each row, in the type of `values`."""
    d_in = decoder.shape[1]
    decoded = values.new_empty(len(starts), d_in)
    _decode[(len(starts),)](
        values, features, starts, ends, decoder, decoded, d_in,
        ACC=accumulator(values), ENTRIES=row_block(d_in), LANES=lanes(d_in), num_warps=warps(d_in),
    )  # fmt: skip
    return decoded


def entry_products(
    features: Int[Tensor, " capacity"],
    starts: Int[Tensor, " batch"],
    ends: Int[Tensor, " batch"],
    decoder: Float[Tensor, "d_sae d_in"],
    gradient: Float[Tensor, "batch d_in"],
) -> Float[Tensor, " capacity"]:
    """⟨gradient[row], decoder[feature]⟩ for each entry; 0 in empty places. The gradient of `decode`'s values."""
    d_in = decoder.shape[1]
    products = gradient.new_zeros(len(features))
    _entry_products[(len(starts),)](
        features, starts, ends, decoder, gradient, products, d_in,
        ACC=accumulator(gradient), ENTRIES=row_block(d_in), LANES=lanes(d_in), num_warps=warps(d_in),
    )  # fmt: skip
    return products


def reconstruct(
    entries: Entries,
    decoder: Float[Tensor, "d_sae d_in"],
    rows: Float[Tensor, "batch d_in"],
    scale: Float[Tensor, ""],
    b_dec: Float[Tensor, " d_in"],
    factor: Float[Tensor, ""],
) -> tuple[Float[Tensor, "batch d_in"], Float[Tensor, " batch"], Float[Tensor, " capacity"]]:
    """Decode, compare and go back to the values, while a row's part of the dictionary is in the nearest cache.

    Args:
        entries: what is active.
        decoder: gives its type to the errors.
        rows: targets before they are scaled.
        scale: what they are multiplied by.
        b_dec: is added to what is decoded.
        factor: what an error is multiplied by to be the loss's gradient.

    Returns:
        The errors (target less reconstruction), each row's sum of squares, and the loss's gradient of each value, 0 in
        empty places.
    """
    batch, d_in = rows.shape
    errors = decoder.new_empty(batch, d_in)
    squared_norms = b_dec.new_empty(batch)
    gradients = torch.zeros_like(entries.values)
    _reconstruct[(batch,)](
        entries.values, entries.features, entries.starts, entries.ends, decoder, rows, scale, b_dec, factor,
        errors, squared_norms, gradients, d_in,
        ENTRIES=row_block(d_in), LANES=lanes(d_in), num_warps=warps(d_in),
    )  # fmt: skip
    return errors, squared_norms, gradients


@dataclass(frozen=True)
class ByFeature:
    """Entries grouped by feature, in parts of at most `PART`; a feature without entries has one empty part."""

    order: Int[Tensor, " capacity"]
    """Entries by feature, each feature's in the order they had."""
    borders: Int[Tensor, " d_sae+1"]
    """Start of each feature's entries in `order`, and the end of the last one's."""
    parts: Int[Tensor, " d_sae+1"]
    """Number of each feature's first part, and of parts in all."""
    owners: Int[Tensor, " programs"]
    """Feature of each part, with room for as many parts as there can be; `d_sae` in empty places."""

    @classmethod
    def of(cls, features: Int[Tensor, " capacity"], d_sae: int) -> "ByFeature":
        """Group entries by feature; a feature of `d_sae` marks an empty place."""
        # A radix sort goes over all bits of its type, so a short type takes half the passes.
        keys = features.to(torch.int16) if d_sae < 1 << 15 else features.to(torch.int32)
        ordered, order = keys.sort(stable=True)
        device = features.device
        borders = torch.searchsorted(ordered, torch.arange(d_sae + 1, dtype=keys.dtype, device=device))
        needed = borders.diff().sub_(1).clamp_(min=0).div_(PART, rounding_mode="floor").add_(1)
        parts = torch.zeros_like(borders)
        torch.cumsum(needed, 0, out=parts[1:])
        most = torch.arange(d_sae + len(features) // PART, device=device)
        return cls(order, borders, parts, torch.searchsorted(parts, most, right=True).sub_(1))

    @property
    def d_sae(self) -> int:
        """Number of features."""
        return len(self.borders) - 1

    def is_active(self) -> Tensor:
        """Return a mask of the features with an entry."""
        return self.borders[1:] > self.borders[:-1]


def sum_by_feature(
    grouped: ByFeature,
    weights: Float[Tensor, " capacity"],
    rows: Int[Tensor, " capacity"],
    matrix: Float[Tensor, "batch d_in"],
    factor: Float[Tensor, ""] | None = None,
) -> tuple[Float[Tensor, "d_sae d_in"], Float[Tensor, " d_sae"]]:
    """Σ weights · matrix[row] over each feature's entries, and Σ weights: gradients of a dictionary and of its biases.

    Args:
        grouped: the entries by feature.
        weights: one for each entry; the results have their type.
        rows: each entry's row.
        matrix: what is summed.
        factor: what both sums are multiplied by; None is 1.
    """
    d_in, d_sae = matrix.shape[1], grouped.d_sae
    further = len(grouped.owners) - d_sae
    sums = weights.new_empty(d_sae, d_in)
    totals = weights.new_empty(d_sae)
    # Of features in several parts, the sums of all parts but the first.
    part_sums = weights.new_empty(max(1, further), d_in)
    part_totals = weights.new_empty(max(1, further))
    options = {"LANES": lanes(d_in), "num_warps": warps(d_in)}
    factor = weights.new_ones(()) if factor is None else factor
    _sum_parts[(len(grouped.owners),)](
        grouped.order, grouped.borders, grouped.parts, grouped.owners, weights, rows, matrix, factor,
        sums, totals, part_sums, part_totals, d_in, d_sae,
        PART=PART, ACC=accumulator(weights), ENTRIES=row_block(d_in), **options,
    )  # fmt: skip
    if further:
        _add_parts[(d_sae,)](grouped.parts, sums, totals, part_sums, part_totals, d_in, **options)
    return sums, totals


@triton.jit
def _load_rows(matrix, row, wanted, lane, width):
    """Rows of a matrix by number, as one block; 0 where they are not wanted."""
    at = row.to(tl.int64)[:, None] * width + lane[None, :]
    return tl.load(matrix + at, mask=wanted[:, None] & (lane < width)[None, :], other=0.0)


@triton.jit
def _weighted_sum(values, features, start, end, decoder, lane, d_in, ACC: tl.constexpr, ENTRIES: tl.constexpr):
    total = tl.sum(tl.zeros([ENTRIES, lane.shape[0]], ACC), axis=0)
    for first in range(start, end, ENTRIES):
        entry = first + tl.arange(0, ENTRIES)
        feature = tl.load(features + entry, mask=entry < end, other=0)
        value = tl.load(values + entry, mask=entry < end, other=0.0).to(ACC)
        direction = _load_rows(decoder, feature, entry < end, lane, d_in).to(ACC)
        total += tl.sum(value[:, None] * direction, axis=0)
    return total


@triton.jit
def _decode(
    values, features, starts, ends, decoder, decoded, d_in,
    ACC: tl.constexpr, ENTRIES: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, LANES)
    start = tl.load(starts + row)
    end = tl.load(ends + row)
    total = _weighted_sum(values, features, start, end, decoder, lane, d_in, ACC, ENTRIES)
    tl.store(decoded + row * d_in + lane, total.to(decoded.dtype.element_ty), mask=lane < d_in)


@triton.jit
def _products(features, start, end, decoder, vector, products, lane, d_in, ACC: tl.constexpr, ENTRIES: tl.constexpr):
    for first in range(start, end, ENTRIES):
        entry = first + tl.arange(0, ENTRIES)
        feature = tl.load(features + entry, mask=entry < end, other=0)
        direction = _load_rows(decoder, feature, entry < end, lane, d_in).to(ACC)
        product = tl.sum(direction * vector[None, :], axis=1)
        tl.store(products + entry, product.to(products.dtype.element_ty), mask=entry < end)


@triton.jit
def _entry_products(
    features, starts, ends, decoder, gradient, products, d_in,
    ACC: tl.constexpr, ENTRIES: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, LANES)
    vector = tl.load(gradient + row * d_in + lane, mask=lane < d_in, other=0.0).to(ACC)
    _products(features, tl.load(starts + row), tl.load(ends + row), decoder, vector, products, lane, d_in, ACC, ENTRIES)


@triton.jit
def _reconstruct(
    values, features, starts, ends, decoder, rows, scale, b_dec, factor, errors, squared_norms, gradients, d_in,
    ENTRIES: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, LANES)
    start = tl.load(starts + row)
    end = tl.load(ends + row)
    target = tl.load(rows + row * d_in + lane, mask=lane < d_in, other=0.0).to(tl.float32) * tl.load(scale)
    error = target - tl.load(b_dec + lane, mask=lane < d_in, other=0.0)
    error -= _weighted_sum(values, features, start, end, decoder, lane, d_in, tl.float32, ENTRIES)
    tl.store(errors + row * d_in + lane, error.to(errors.dtype.element_ty), mask=lane < d_in)
    tl.store(squared_norms + row, tl.sum(error * error))
    gradient = error * tl.load(factor)
    _products(features, start, end, decoder, gradient, gradients, lane, d_in, tl.float32, ENTRIES)


@triton.jit
def _sum_parts(
    order, borders, parts, owners, weights, rows, matrix, factor, sums, totals, part_sums, part_totals, d_in, d_sae,
    PART: tl.constexpr, ACC: tl.constexpr, ENTRIES: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    part = tl.program_id(0)
    owner = tl.load(owners + part)
    if owner >= d_sae:
        return
    number = part - tl.load(parts + owner)
    start = tl.load(borders + owner) + number * PART
    end = tl.minimum(start + PART, tl.load(borders + owner + 1))
    lane = tl.arange(0, LANES)
    total = tl.sum(tl.zeros([ENTRIES, LANES], ACC), axis=0)
    of_weights = tl.zeros([ENTRIES], ACC)
    for first in range(start, end, ENTRIES):
        place = first + tl.arange(0, ENTRIES)
        entry = tl.load(order + place, mask=place < end, other=0)
        row = tl.load(rows + entry, mask=place < end, other=0)
        weight = tl.load(weights + entry, mask=place < end, other=0.0).to(ACC)
        total += tl.sum(weight[:, None] * _load_rows(matrix, row, place < end, lane, d_in).to(ACC), axis=0)
        of_weights += weight
    by = tl.load(factor).to(ACC)
    if number == 0:
        tl.store(sums + owner.to(tl.int64) * d_in + lane, total * by, mask=lane < d_in)
        tl.store(totals + owner, tl.sum(of_weights) * by)
    else:  # each feature before this one has one first part
        slot = part - owner - 1
        tl.store(part_sums + slot.to(tl.int64) * d_in + lane, total * by, mask=lane < d_in)
        tl.store(part_totals + slot, tl.sum(of_weights) * by)


@triton.jit
def _add_parts(parts, sums, totals, part_sums, part_totals, d_in, LANES: tl.constexpr):
    feature = tl.program_id(0).to(tl.int64)
    start = tl.load(parts + feature) - feature
    end = tl.load(parts + feature + 1) - feature - 1
    if start == end:
        return
    lane = tl.arange(0, LANES)
    total = tl.load(sums + feature * d_in + lane, mask=lane < d_in, other=0.0)
    of_weights = tl.load(totals + feature)
    for slot in range(start, end):
        total += tl.load(part_sums + slot * d_in + lane, mask=lane < d_in, other=0.0)
        of_weights += tl.load(part_totals + slot)
    tl.store(sums + feature * d_in + lane, total, mask=lane < d_in)
    tl.store(totals + feature, of_weights)
