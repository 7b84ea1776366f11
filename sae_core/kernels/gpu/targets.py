# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
"""The batch: centred for the encoder, and its moments, in one pass over the activations."""

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from sae_core.kernels.gpu.launch import cdiv, lanes, row_block, warps

ROWS = 64
"""Rows of a program."""


def centre(
    rows: Float[Tensor, "batch d_in"],
    scale: Float[Tensor, ""],
    b_dec: Float[Tensor, " d_in"],
    dtype: torch.dtype,
) -> tuple[Float[Tensor, "batch d_in"], Float[Tensor, " d_in"], Float[Tensor, ""]]:
    """Activations · scale − b_dec in the type that products are taken in, their sum over rows, and of all squares."""
    batch, d_in = rows.shape
    centred = rows.new_empty(batch, d_in, dtype=dtype)
    programs = cdiv(batch, ROWS)
    sums = b_dec.new_empty(programs, d_in)
    squared_norms = b_dec.new_empty(programs)
    _centre[(programs,)](
        rows, scale, b_dec, centred, sums, squared_norms, batch, d_in,
        ROWS=ROWS, AT_ONCE=row_block(d_in), LANES=lanes(d_in), num_warps=warps(d_in),
    )  # fmt: skip
    return centred, sums.sum(dim=0), squared_norms.sum()


def take_in(
    sums: Float[Tensor, " d_in"],
    square: Float[Tensor, ""],
    b_dec: Float[Tensor, " d_in"],
    batch: int,
    count: Float[Tensor, ""],
    mean: Float[Tensor, " d_in"],
    squares: Float[Tensor, ""],
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Add a batch to a stream's moments, in place; return the batch's variance and −2 / (batch · variance).

    An error times the second is the gradient of the loss by the reconstruction.

    Args:
        sums: over rows minus `b_dec`, which is near their mean, so that nothing cancels.
        square: sum of all squares of the same.
        b_dec: subtracted from each row.
        batch: number of rows.
        count: activations so far, as `RunningVariance.add` updates it.
        mean: of these.
        squares: Σ ‖x − mean‖².
    """
    numbers = torch.empty(2, device=sums.device)
    _take_in[(1,)](
        sums, square, b_dec, batch, count, mean, squares, numbers, len(sums),
        LANES=lanes(len(sums)), num_warps=8,
    )  # fmt: skip
    return numbers[0], numbers[1]


@triton.jit
def _centre(
    rows, scale, b_dec, centred, sums, squared_norms, batch, d_in,
    ROWS: tl.constexpr, AT_ONCE: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    lane = tl.arange(0, LANES)
    by = tl.load(scale)
    offset = tl.load(b_dec + lane, mask=lane < d_in, other=0.0)
    total = tl.sum(tl.zeros([AT_ONCE, LANES], tl.float32), axis=0)
    square = tl.sum(tl.zeros([AT_ONCE, LANES], tl.float32), axis=0)
    for start in range(0, ROWS, AT_ONCE):
        row = tl.program_id(0) * ROWS + start + tl.arange(0, AT_ONCE)
        at = row.to(tl.int64)[:, None] * d_in + lane[None, :]
        inside = (row < batch)[:, None] & (lane < d_in)[None, :]
        value = tl.load(rows + at, mask=inside, other=0.0).to(tl.float32) * by - offset[None, :]
        tl.store(centred + at, value.to(centred.dtype.element_ty), mask=inside)
        value = tl.where(inside, value, 0.0)
        total += tl.sum(value, axis=0)
        square += tl.sum(value * value, axis=0)
    tl.store(sums + tl.program_id(0).to(tl.int64) * d_in + lane, total, mask=lane < d_in)
    tl.store(squared_norms + tl.program_id(0), tl.sum(square))


@triton.jit
def _take_in(sums, square, b_dec, batch, count, mean, squared_norms, numbers, d_in, LANES: tl.constexpr):
    lane = tl.arange(0, LANES)
    offset = tl.load(sums + lane, mask=lane < d_in, other=0.0).to(tl.float64) / batch
    within = tl.load(square).to(tl.float64) - tl.sum(offset * offset) * batch
    tl.store(numbers, (within / batch).to(tl.float32))
    tl.store(numbers + 1, (-2 / within).to(tl.float32))
    # Chan, Golub and LeVeque's merge, as in `RunningVariance.add`.
    of_batch = offset + tl.load(b_dec + lane, mask=lane < d_in, other=0.0).to(tl.float64)
    before = tl.load(mean + lane, mask=lane < d_in, other=0.0)
    shift = of_batch - before
    seen = tl.load(count)
    share = batch / (seen + batch)
    tl.store(squared_norms, tl.load(squared_norms) + within + tl.sum(shift * shift) * seen * share)
    tl.store(mean + lane, before + shift * share, mask=lane < d_in)
    tl.store(count, seen + batch)
