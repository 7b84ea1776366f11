# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
"""AuxK (`sae_core.saes.auxk`) where only the device knows how many features are dead.

Programs are started for all features, and those past the last dead one end at once; where none is dead, all do, so that
a step which needs no AuxK does not pay for it. A token gets up to d_in/2 auxiliary features, too many for gathers to
beat matrix products: at d = 768 and 16,384 rows a gather in bfloat16 would move 9.7 GB, while the product with as many
as 16,384 dead features is 412 GFLOP, 0.42 ms at an H100's 989 TFLOP/s.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_core.kernels.gpu.launch import cdiv, multiply, precision
from sae_core.kernels.gpu.select import key_of, unused_bits

BM, BN, BK = 64, 128, 32
"""Tile of the products."""


@dataclass(frozen=True)
class Dead:
    """The dead features, ascending, without their number on the host."""

    features: Int[Tensor, " d_sae"]
    """int32; what comes after the first `count` means nothing."""
    count: Int[Tensor, ""]
    """int32."""

    @classmethod
    def of(cls, is_dead: Bool[Tensor, " d_sae"]) -> "Dead":
        """From a mask."""
        places = is_dead.cumsum(0)
        d_sae = len(is_dead)
        # The living all write to one place behind the last, which is cut off.
        features = torch.zeros(d_sae + 1, dtype=torch.int32, device=is_dead.device)
        numbers = torch.arange(d_sae, dtype=torch.int32, device=is_dead.device)
        features.scatter_(0, torch.where(is_dead, places - 1, d_sae), numbers)
        return cls(features[:-1], places[-1].int())


def add_auxk(
    dead: Dead,
    pre: Float[Tensor, "batch d_sae"],
    x: Float[Tensor, "batch d_in"],
    decoder: Float[Tensor, "d_sae d_in"],
    errors: Float[Tensor, "batch d_in"],
    square: Float[Tensor, ""],
    coefficient: float,
    gradients: tuple[Float[Tensor, "d_sae d_in"], Float[Tensor, "d_sae d_in"], Float[Tensor, " d_sae"]],
    *,
    tf32: bool = False,
) -> Float[Tensor, ""]:
    """AuxK's loss ‖e − ê‖² / ‖e‖² times its coefficient; its gradients are added to the step's.

    Args:
        dead: the features that take part.
        pre: pre-activations of all features.
        x: what the encoder read, in the type of `pre`.
        decoder: in the type of `pre`.
        errors: e, in the type of `pre`.
        square: ‖e‖².
        coefficient: AuxK's weight in the loss.
        gradients: of the decoder, of the encoder and of its biases, float32.
        tf32: whether float32 factors may be rounded to TF32.
    """
    (batch, d_sae), d_in = pre.shape, x.shape[1]
    f = select(dead, pre, d_in // 2)
    warps = 8 if pre.dtype == torch.float32 else 4  # float32 without tensor cores needs the registers of more threads
    options = {
        "PRECISION": precision(pre.dtype, tf32), "BM": BM, "BN": BN, "BK": BK, "num_warps": warps, "num_stages": 3,
    }  # fmt: skip
    tiles_m, tiles_d, tiles_n = cdiv(batch, BM), cdiv(d_in, BN), cdiv(d_sae, BN)
    residual = torch.empty_like(errors)
    remaining = square.new_zeros(tiles_m * tiles_d)
    _residual[(tiles_m, tiles_d)](
        f, decoder, dead.features, dead.count, errors, residual, remaining, batch, d_sae, d_in, **options
    )
    factor = -2 * coefficient / square
    f_gradients = torch.empty_like(pre)
    _f_gradients[(tiles_m, tiles_n)](
        f, decoder, dead.features, dead.count, residual, factor, f_gradients, batch, d_sae, d_in, **options
    )
    of_decoder, of_encoder, of_bias = gradients
    grid = (cdiv(d_sae, BM), tiles_d)
    _add_outer[grid](
        f, residual, dead.features, dead.count, factor, of_decoder, of_bias, batch, d_sae, d_in, BIAS=False, **options
    )
    one = torch.ones_like(factor)
    _add_outer[grid](
        f_gradients, x, dead.features, dead.count, one, of_encoder, of_bias, batch, d_sae, d_in, BIAS=True, **options
    )
    return torch.where(dead.count > 0, coefficient * remaining.sum() / square, 0.0)


def select(dead: Dead, pre: Float[Tensor, "batch d_sae"], most: int) -> Float[Tensor, "batch d_sae"]:
    """Each row's `most` largest dead pre-activations, where positive, among zeros; a column for each dead feature.

    Columns after the last dead feature's are meaningless.
    """
    f = torch.empty_like(pre)
    _select[(len(pre),)](
        pre, dead.features, dead.count, f, pre.shape[1], most, SHIFT=unused_bits(pre), BLOCK=1024, num_warps=4
    )
    return f


@triton.jit
def _select(pre, dead, count, f, d_sae, most, SHIFT: tl.constexpr, BLOCK: tl.constexpr):
    number = tl.load(count)
    row = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, BLOCK)
    digit = tl.arange(0, 256)
    wanted = tl.minimum(most, number)
    last = 0
    for step in range((32 - SHIFT) // 8):
        low = 24 - SHIFT - 8 * step
        bins = tl.zeros([256], tl.int32)
        for start in range(0, number, BLOCK):
            feature = tl.load(dead + start + lane, mask=start + lane < number, other=0)
            key = key_of(tl.load(pre + row * d_sae + feature, mask=start + lane < number, other=0.0), SHIFT)
            bins += tl.histogram((key >> low) & 255, 256, mask=(key > 0) & ((key >> low >> 8) == (last >> low >> 8)))
        reach = tl.sum(bins) - tl.cumsum(bins, 0) + bins
        picked = tl.max(tl.where(reach >= wanted, digit, 0))
        wanted -= tl.sum(tl.where(digit > picked, bins, 0))
        last = last | (picked << low)
    for start in range(0, number, BLOCK):
        feature = tl.load(dead + start + lane, mask=start + lane < number, other=0)
        value = tl.load(pre + row * d_sae + feature, mask=start + lane < number, other=0.0)
        key = key_of(value, SHIFT)
        equal = (key == last) & (key > 0)
        rank = tl.cumsum(equal.to(tl.int32), 0)
        kept = (key > last) | (equal & (rank <= wanted))
        wanted -= tl.minimum(wanted, tl.max(rank))
        tl.store(f + row * d_sae + start + lane, tl.where(kept, value, 0.0), mask=start + lane < number)


@triton.jit
def _residual(
    f, decoder, dead, count, errors, residual, remaining, batch, d_sae, d_in,
    PRECISION: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """E − f · decoder[dead], and each tile's sum of squares."""
    number = tl.load(count)
    if number == 0:
        return
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    row = m.to(tl.int64)[:, None]
    decoded = tl.zeros([BM, BN], tl.float32)
    for start in range(0, number, BK):
        k = start + tl.arange(0, BK)
        feature = tl.load(dead + k, mask=k < number, other=0).to(tl.int64)
        a = tl.load(f + row * d_sae + k[None, :], mask=(m < batch)[:, None] & (k < number)[None, :], other=0.0)
        b = tl.load(
            decoder + feature[:, None] * d_in + n[None, :], mask=(k < number)[:, None] & (n < d_in)[None, :], other=0.0
        )
        decoded = multiply(a, b, decoded, PRECISION)
    inside = (m < batch)[:, None] & (n < d_in)[None, :]
    left = tl.load(errors + row * d_in + n[None, :], mask=inside, other=0.0).to(tl.float32) - decoded
    left = tl.where(inside, left, 0.0)
    tl.store(residual + row * d_in + n[None, :], left.to(residual.dtype.element_ty), mask=inside)
    tl.store(remaining + tl.program_id(0) * tl.num_programs(1) + tl.program_id(1), tl.sum(left * left))


@triton.jit
def _f_gradients(
    f, decoder, dead, count, residual, factor, f_gradients, batch, d_sae, d_in,
    PRECISION: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Factor · residual · decoder[dead]ᵀ where f is active, else 0."""
    number = tl.load(count)
    if tl.program_id(1) * BN >= number:
        return
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    row = m.to(tl.int64)[:, None]
    feature = tl.load(dead + n, mask=n < number, other=0).to(tl.int64)
    total = tl.zeros([BM, BN], tl.float32)
    for start in range(0, d_in, BK):
        k = start + tl.arange(0, BK)
        a = tl.load(residual + row * d_in + k[None, :], mask=(m < batch)[:, None] & (k < d_in)[None, :], other=0.0)
        b = tl.load(
            decoder + feature[None, :] * d_in + k[:, None], mask=(k < d_in)[:, None] & (n < number)[None, :], other=0.0
        )
        total = multiply(a, b, total, PRECISION)
    inside = (m < batch)[:, None] & (n < number)[None, :]
    is_active = tl.load(f + row * d_sae + n[None, :], mask=inside, other=0.0).to(tl.float32) > 0
    gradient = tl.where(is_active, total * tl.load(factor), 0.0)
    tl.store(f_gradients + row * d_sae + n[None, :], gradient.to(f_gradients.dtype.element_ty), mask=inside)


@triton.jit
def _add_outer(
    weights, matrix, dead, count, factor, sums, totals, batch, d_sae, d_in,
    BIAS: tl.constexpr, PRECISION: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Add factor · weightsᵀ · matrix to the dead features' rows of `sums`, and if wanted Σ weights to `totals`."""
    number = tl.load(count)
    if tl.program_id(0) * BM >= number:
        return
    m = tl.program_id(0) * BM + tl.arange(0, BM)
    n = tl.program_id(1) * BN + tl.arange(0, BN)
    total = tl.zeros([BM, BN], tl.float32)
    of_weights = tl.zeros([BM], tl.float32)
    for start in range(0, batch, BK):
        k = start + tl.arange(0, BK)
        row = k.to(tl.int64)[:, None]
        at_once = tl.load(
            weights + row * d_sae + m[None, :], mask=(k < batch)[:, None] & (m < number)[None, :], other=0.0
        )
        b = tl.load(matrix + row * d_in + n[None, :], mask=(k < batch)[:, None] & (n < d_in)[None, :], other=0.0)
        total = multiply(tl.trans(at_once), b, total, PRECISION)
        of_weights += tl.sum(at_once.to(tl.float32), axis=0)
    feature = tl.load(dead + m, mask=m < number, other=0).to(tl.int64)
    target = sums + feature[:, None] * d_in + n[None, :]
    inside = (m < number)[:, None] & (n < d_in)[None, :]
    tl.store(target, tl.load(target, mask=inside, other=0.0) + total * tl.load(factor), mask=inside)
    if BIAS:  # noqa: SIM102 - decided when the kernel is compiled
        if tl.program_id(1) == 0:
            before = tl.load(totals + feature, mask=m < number, other=0.0)
            tl.store(totals + feature, before + of_weights, mask=m < number)
