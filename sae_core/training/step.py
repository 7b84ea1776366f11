"""One step of gradient descent."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_

from sae_core.devices import answers_at_once
from sae_core.saes import Batch, Losses
from sae_core.saes.batch import variance_of
from sae_core.training.config import TrainingConfig
from sae_core.training.state import TrainingState, diverged


class Step(Protocol):
    """A way to train one SAE."""

    def __call__(self, rows: Float[Tensor, "batch d_in+d_out"]) -> Losses:
        """Take one step on this process' part of a batch, in the model's own units; the losses hold until the next."""

    def check(self) -> None:
        """Raise TrainingDiverged if a loss or a gradient so far was not a number."""


@dataclass(frozen=True)
class TorchStep:
    """`take_step` of one state."""

    state: TrainingState

    def __call__(self, rows: Float[Tensor, "batch d_in+d_out"]) -> Losses:
        """Take one step."""
        return take_step(self.state, rows)

    def check(self) -> None:
        """Raise TrainingDiverged if a loss or a gradient so far was not a number; on a CPU each step did already."""
        if self.state.is_bad.item():
            raise diverged(self.state, f"by step {self.state.step}", by_data=False)


def step_for(state: TrainingState, *, triton: bool) -> Step:
    """Return the way to train a state: by the kernels for GPUs, where they can take the whole step, or by torch."""
    if triton:
        from sae_core.training.gpu_step import GpuStep, is_supported

        if is_supported(state):
            return GpuStep(state)
    return TorchStep(state)


def take_step(state: TrainingState, rows: Float[Tensor, "batch d_in+d_out"]) -> Losses:
    """Take one step of gradient descent on this process' part of a batch, in the model's own units.

    On a GPU nothing here waits for the device, but for JumpReLU's number of entries near their threshold, and several
    processes' ties: a loss or a gradient that is not a number stops the weights from changing and sets `state.is_bad`.

    Raises:
        TrainingDiverged: on a CPU, before a weight is touched, if the loss or a gradient is not a number.
    """
    sae, config, tokens = state.sae, state.config, state.grid.tokens
    x = rows[:, : sae.d_in] * sae.input_scale
    target = rows[:, sae.d_in :] * sae.output_scale if sae.is_transcoder else x
    whole = Batch(
        x,
        target,
        variance_of(target, tokens),
        dead=state.listed_dead(),
        sparsity=state.sparsity(),
        grid=state.grid,
    )
    parts = []
    for of_x, of_target in zip(x.chunk(config.accumulate), target.chunk(config.accumulate), strict=True):
        with _autocast(config, x.device):
            losses = state.losses(replace(whole, x=of_x, target=of_x if target is x else of_target))
        torch.autograd.backward(losses.total / config.accumulate)
        parts.append(losses)
    losses = _mean(parts)
    norm = _reduce_gradients(state)
    is_bad = ~(losses.total.detach() + norm).isfinite()
    if answers_at_once(is_bad) and is_bad:
        raise diverged(state, f"at step {state.step + 1}", by_data=not rows.isfinite().all())
    state.is_bad.copy_(torch.maximum(state.is_bad, is_bad.float()))
    clip_grads_with_norm_(sae.parameters(), state.clip, norm, foreach=False)
    state.descend()
    sae.normalise_decoder()
    if state.l0_control is not None:
        state.l0_control.observe(losses.l0, state.step)
    state.step += 1
    state.last_active.masked_fill_(tokens.all_reduce(losses.active.int()) > 0, state.samples)
    state.targets.add(target, tokens)
    return losses


def _reduce_gradients(state: TrainingState) -> Float[Tensor, ""]:
    """Sum the gradients of all processes, fix the decoder rows' norm; return the norm of the whole gradient."""
    sae, grid = state.sae, state.grid
    for parameter in sae.parameters():
        if parameter.grad is not None:
            parameter.grad = grid.tokens.all_reduce(parameter.grad)
    sae.remove_parallel_gradient()
    squares = {True: torch.zeros((), device=sae.W_dec.device), False: torch.zeros((), device=sae.W_dec.device)}
    for name, parameter in sae.named_parameters():
        if parameter.grad is not None:
            squares[name in sae.replicated] += torch.linalg.vector_norm(parameter.grad).square()
    return (squares[True] + grid.features.all_reduce(squares[False])).sqrt()


def _mean(parts: Sequence[Losses]) -> Losses:
    """Return the losses of a batch that was taken in parts of one size."""
    if len(parts) == 1:
        return parts[0]
    return Losses(
        total=torch.stack([part.total.detach() for part in parts]).mean(),
        mse=torch.stack([part.mse for part in parts]).mean(),
        l0=torch.stack([part.l0 for part in parts]).mean(),
        active=torch.stack([part.active for part in parts]).any(dim=0),
    )


def _autocast(config: TrainingConfig, device: torch.device) -> AbstractContextManager[None]:
    return torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16")
