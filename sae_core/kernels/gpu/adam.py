# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
"""The optimiser in one pass: clip, drop what only changes a decoder row's norm, Adam, unit norm, and a short copy.

A parameter, its gradient and Adam's two moments are read once, all but the gradient are written once: 28 bytes per
entry of float32, and 2 more for the bfloat16 copy that the next step's products read. The gradient's norm takes one
pass over gradients and decoder before it, 6 bytes per entry on average. As plain torch the same is some 20 passes.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from jaxtyping import Bool, Float
from torch import Tensor

from sae_core.kernels.gpu.launch import cdiv, lanes, warps

EPS = 1e-8
"""Added to the root of the second moment, as `torch.optim.Adam` does."""
VECTOR = 1024
"""Entries of a vector, such as `b_enc`, that are taken as one row."""


@dataclass(frozen=True)
class Schedule:
    """Schedule of the learning rate and factors of the moments, named as in `TrainingConfig`."""

    lr: float
    rising: float
    """Steps over which the learning rate grows."""
    falling: float
    """Steps, at the end, over which it falls."""
    steps: int
    clip: float
    beta1: float
    beta2: float


@dataclass(frozen=True)
class AdamState:
    """Numbers that all parameters of one step share, on the device."""

    numbers: Float[Tensor, "4"]
    """float32: factor of the gradients, learning rate over the first moment's bias correction, one over the
    root of the second's, and 1 if the step is to be taken, else 0."""
    step: Tensor
    """int64: steps done."""
    powers: Float[Tensor, "2"]
    """float64: both betas to the power of the steps done."""

    @classmethod
    def after(cls, step: int, schedule: Schedule, device: torch.device) -> "AdamState":
        """Return the state after so many steps."""
        numbers = torch.tensor([0.0, 0.0, 0.0, 1.0], device=device)
        powers = torch.tensor([schedule.beta1**step, schedule.beta2**step], dtype=torch.float64, device=device)
        return cls(numbers, torch.tensor(step, device=device), powers)

    def is_finite(self) -> Bool[Tensor, ""]:
        """False from the first step on whose loss or gradient was not a number; that step and all later ones leave the
        weights as they are."""
        return self.numbers[3] > 0


def squared_norms(
    gradients: tuple[Float[Tensor, "d_sae d_in"], Float[Tensor, "d_sae d_in"], Float[Tensor, " d_sae"]],
    decoder: Float[Tensor, "d_sae d_in"],
) -> Float[Tensor, " d_sae"]:
    """Return each feature's part of the gradient's squared norm.

    Args:
        gradients: of the decoder, of the encoder and of its biases; the decoder's counts without its part along the
            decoder's rows, which the optimiser drops.
        decoder: of unit rows.
    """
    d_sae, d_in = decoder.shape
    result = torch.empty_like(gradients[2])
    _squared_norms[(d_sae,)](*gradients, decoder, result, d_in, LANES=lanes(d_in), num_warps=warps(d_in))
    return result


def prepare_step(
    adam: AdamState,
    schedule: Schedule,
    of_features: Float[Tensor, " d_sae"],
    of_b_dec: Float[Tensor, " d_in"],
    loss: Float[Tensor, ""],
) -> None:
    """Compute the numbers of the next step from the gradient's norm and the schedule.

    Args:
        adam: changed in place.
        schedule: of the run.
        of_features: as `squared_norms` gives them.
        of_b_dec: gradient of `b_dec`, which belongs to no feature.
        loss: if it or the norm is not a number, this step and all later ones change nothing.
    """
    _prepare_step[(1,)](
        adam.numbers, adam.step, adam.powers, of_features, of_b_dec, loss, len(of_features), len(of_b_dec),
        schedule.lr, schedule.rising, schedule.falling, schedule.steps, schedule.clip,
        BETA1=schedule.beta1, BETA2=schedule.beta2, BLOCK=4096, num_warps=8,
    )  # fmt: skip


def descend(
    parameter: Float[Tensor, "..."],
    gradient: Float[Tensor, "..."],
    moments: tuple[Float[Tensor, "..."], Float[Tensor, "..."]],
    adam: AdamState,
    schedule: Schedule,
    *,
    copy: Float[Tensor, "..."] | None = None,
    unit_rows: bool = False,
) -> None:
    """Move a parameter by its gradient, in place.

    Args:
        parameter: a vector, or a matrix with a row for each feature; contiguous, as all others are.
        gradient: of the parameter; is not changed.
        moments: Adam's first and second, which are updated.
        adam: of this step.
        schedule: of the run.
        copy: gets the new values in its own type.
        unit_rows: whether rows have unit norm, and keep it.
    """
    width = parameter.shape[1] if parameter.ndim == 2 else min(VECTOR, len(parameter))
    _descend[(cdiv(parameter.numel(), width),)](
        parameter, gradient, *moments, parameter if copy is None else copy, adam.numbers, width, parameter.numel(),
        BETA1=schedule.beta1, BETA2=schedule.beta2, EPS=EPS, UNIT=unit_rows, COPY=copy is not None,
        LANES=lanes(width), num_warps=warps(width),
    )  # fmt: skip


@torch.no_grad()
def descend_reference(
    parameter: Float[Tensor, "..."],
    gradient: Float[Tensor, "..."],
    moments: tuple[Float[Tensor, "..."], Float[Tensor, "..."]],
    adam: AdamState,
    schedule: Schedule,
    *,
    unit_rows: bool = False,
) -> None:
    """`descend` in plain torch, in the parameter's type."""
    scale, rate, correction, is_taken = adam.numbers.to(parameter.dtype)
    if not is_taken:
        return
    if unit_rows:
        gradient = gradient - torch.linalg.vecdot(gradient, parameter)[:, None] * parameter
    gradient = gradient * scale
    moments[0].lerp_(gradient, 1 - schedule.beta1)
    moments[1].lerp_(gradient.square(), 1 - schedule.beta2)
    parameter.sub_(rate * moments[0] / (moments[1].sqrt() * correction + EPS))
    if unit_rows:
        parameter.div_(torch.linalg.vector_norm(parameter, dim=1, keepdim=True))


@triton.jit
def _squared_norms(of_decoder, of_encoder, of_bias, decoder, result, d_in, LANES: tl.constexpr):
    feature = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, LANES)
    at = feature * d_in + lane
    gradient = tl.load(of_decoder + at, mask=lane < d_in, other=0.0)
    direction = tl.load(decoder + at, mask=lane < d_in, other=0.0)
    across = gradient - tl.sum(gradient * direction) * direction
    encoder = tl.load(of_encoder + at, mask=lane < d_in, other=0.0)
    bias = tl.load(of_bias + feature)
    tl.store(result + feature, tl.sum(across * across + encoder * encoder) + bias * bias)


@triton.jit
def _prepare_step(
    numbers, step, powers, of_features, of_b_dec, loss, d_sae, d_in, lr, rising, falling, steps, clip,
    BETA1: tl.constexpr, BETA2: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    lane = tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, d_sae, BLOCK):
        total += tl.load(of_features + start + lane, mask=start + lane < d_sae, other=0.0)
    for start in range(0, d_in, BLOCK):
        gradient = tl.load(of_b_dec + start + lane, mask=start + lane < d_in, other=0.0)
        total += gradient * gradient
    norm = tl.sqrt(tl.sum(total))
    number = norm + tl.load(loss)
    taken = tl.where(number - number == 0, tl.load(numbers + 3), 0.0)  # NaN and infinity less themselves are NaN
    done = tl.load(step)
    of_lr = tl.minimum(1.0, tl.minimum((done + 1).to(tl.float32) / rising, (steps - done).to(tl.float32) / falling))
    first = tl.load(powers) * BETA1
    second = tl.load(powers + 1) * BETA2
    tl.store(numbers, tl.minimum(1.0, clip / (norm + 1e-6)))  # as torch.nn.utils.clip_grad_norm_ has it
    tl.store(numbers + 1, (lr * of_lr / (1 - first)).to(tl.float32))
    tl.store(numbers + 2, (1 / tl.sqrt(1 - second)).to(tl.float32))
    tl.store(numbers + 3, taken)
    tl.store(step, done + 1)
    tl.store(powers, first)
    tl.store(powers + 1, second)


@triton.jit
def _descend(
    parameter, gradient, first, second, copy, numbers, width, size,
    BETA1: tl.constexpr, BETA2: tl.constexpr, EPS: tl.constexpr, UNIT: tl.constexpr, COPY: tl.constexpr,
    LANES: tl.constexpr,
):  # fmt: skip
    if tl.load(numbers + 3) == 0:
        return
    lane = tl.arange(0, LANES)
    at = tl.program_id(0).to(tl.int64) * width + lane
    inside = (lane < width) & (at < size)
    value = tl.load(parameter + at, mask=inside, other=0.0)
    slope = tl.load(gradient + at, mask=inside, other=0.0)
    if UNIT:
        slope -= tl.sum(slope * value) * value
    slope *= tl.load(numbers)
    m = tl.load(first + at, mask=inside, other=0.0)
    v = tl.load(second + at, mask=inside, other=0.0)
    m += (1 - BETA1) * (slope - m)
    v += (1 - BETA2) * (slope * slope - v)
    value -= tl.load(numbers + 1) * m / (tl.sqrt(v) * tl.load(numbers + 2) + EPS)
    if UNIT:
        value = value / tl.sqrt(tl.sum(value * value))
    tl.store(first + at, m, mask=inside)
    tl.store(second + at, v, mask=inside)
    tl.store(parameter + at, value, mask=inside)
    if COPY:
        tl.store(copy + at, value.to(copy.dtype.element_ty), mask=inside)
