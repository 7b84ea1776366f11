# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
"""The encoder's product, with the first pass of the selection in its epilogue.

A selection needs the largest of n pre-activations per token. Reading and comparing them would cost 295/d of the
product in bfloat16 on an H100 (2·n bytes at 3.35 TB/s against 2·d·n operations at 989 TFLOP/s; 38 % at d = 768). But of
the groups of `GROUP` neighbouring features, at most k hold an entry of the k largest. So the product also writes each
group's peak while the group is in registers, and the selection then reads n/GROUP peaks and k groups: at n = 16,384 and
k = 32 a tenth of a row, at n = 131,072 and k = 64 a twentieth.
"""

import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from sae_core.kernels.gpu.launch import cdiv, multiply, precision

GROUP = 32
"""Features that share a peak: 64 bytes of bfloat16, two sectors of memory."""


def pre_activations(
    x: Float[Tensor, "batch d_in"],
    encoder: Float[Tensor, "d_sae d_in"],
    bias: Float[Tensor, " d_sae"],
    *,
    tf32: bool = False,
) -> tuple[Float[Tensor, "batch d_sae"], Float[Tensor, "batch groups"]]:
    """`x` times the transposed encoder plus `bias`, and the largest value of each group of `GROUP` features.

    Args:
        x: float32 or bfloat16; sums are taken in float32.
        encoder: of the same type.
        bias: float32.
        tf32: whether float32 factors may be rounded to TF32.

    Returns:
        Both in the type of `x`. A last group that is cut short has the peak of what there is of it.
    """
    (batch, d_in), d_sae = x.shape, len(encoder)
    groups = cdiv(d_sae, GROUP)
    pre = x.new_empty(batch, d_sae)
    peaks = x.new_empty(batch, groups)
    # Two 64 × 256 accumulators to a warp group, as many as registers hold; the last tiles of a matrix may be cut.
    wide = x.element_size() == 4
    BM, BN, BK = (64, 128, 32) if wide else (128, 256, 64)
    grid = (cdiv(batch, BM) * cdiv(d_sae, BN),)
    _product[grid](
        x, encoder, bias, pre, peaks, batch, d_sae, d_in, groups,
        PRECISION=precision(x.dtype, tf32), GROUP=GROUP, BM=BM, BN=BN, BK=BK, num_warps=8, num_stages=3,
    )  # fmt: skip
    return pre, peaks


def group_peaks(pre: Float[Tensor, "batch d_sae"]) -> Float[Tensor, "batch groups"]:
    """The largest value of each group of `GROUP` features, of pre-activations that lie in memory."""
    batch, d_sae = pre.shape
    groups = cdiv(d_sae, GROUP)
    peaks = pre.new_empty(batch, groups)
    _group_peaks[(batch, cdiv(groups, 64))](pre, peaks, d_sae, groups, GROUP=GROUP, BLOCK=64, num_warps=4)
    return peaks


@triton.jit
def _product(
    x, encoder, bias, pre, peaks, batch, d_sae, d_in, groups,
    PRECISION: tl.constexpr, GROUP: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    # Programs go down 8 row tiles before they move one tile to the right, so that those that run together share tiles
    # of both factors in the L2 cache.
    across = 8 * tl.cdiv(d_sae, BN)
    band = tl.program_id(0) // across
    height = min(tl.cdiv(batch, BM) - 8 * band, 8)
    m = (8 * band + tl.program_id(0) % across % height) * BM + tl.arange(0, BM)
    left = tl.program_id(0) % across // height * BN
    n = left + tl.arange(0, BN)
    k = tl.arange(0, BK)
    x_tile = x + m.to(tl.int64)[:, None] * d_in + k[None, :]
    encoder_tile = encoder + n.to(tl.int64)[None, :] * d_in + k[:, None]
    total = tl.zeros([BM, BN], tl.float32)
    for start in range(0, d_in, BK):
        inside = start + k < d_in
        a = tl.load(x_tile + start, mask=(m < batch)[:, None] & inside[None, :], other=0.0)
        b = tl.load(encoder_tile + start, mask=inside[:, None] & (n < d_sae)[None, :], other=0.0)
        total = multiply(a, b, total, PRECISION)
    total += tl.load(bias + n, mask=n < d_sae, other=0.0)[None, :]
    # Peaks are those of the rounded values, which the selection compares them with.
    rounded = total.to(pre.dtype.element_ty)
    inside = (m < batch)[:, None] & (n < d_sae)[None, :]
    tl.store(pre + m.to(tl.int64)[:, None] * d_sae + n[None, :], rounded, mask=inside)
    bounded = tl.where((n < d_sae)[None, :], rounded.to(tl.float32), float("-inf"))
    peak = tl.max(tl.reshape(bounded, [BM, BN // GROUP, GROUP]), axis=2)
    group = left // GROUP + tl.arange(0, BN // GROUP)
    target = peaks + m.to(tl.int64)[:, None] * groups + group[None, :]
    tl.store(target, peak.to(peaks.dtype.element_ty), mask=(m < batch)[:, None] & (group < groups)[None, :])


@triton.jit
def _group_peaks(pre, peaks, d_sae, groups, GROUP: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    feature = group[:, None] * GROUP + tl.arange(0, GROUP)[None, :]
    value = tl.load(pre + row * d_sae + feature, mask=feature < d_sae, other=float("-inf"))
    peak = tl.max(value.to(tl.float32), axis=1)
    tl.store(peaks + row * groups + group, peak.to(peaks.dtype.element_ty), mask=group < groups)
