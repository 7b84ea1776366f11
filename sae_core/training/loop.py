"""Train SAEs: the step, and the loop that a killed run resumes.

The recipe is the field's: Adam, a short warm-up and a linear decay over the last fifth, unit decoder rows with the
gradient component along them removed, `b_dec` from the geometric median, activations scaled to a mean norm of √d_in.
"""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_

from sae_core.devices import resolve_device
from sae_core.errors import SAEError, TrainingDiverged
from sae_core.memory import reuse_freed_memory
from sae_core.parallel import SINGLE_PROCESS, Grid
from sae_core.progress import Progress, silent
from sae_core.saes import SAE, Batch, Losses
from sae_core.saes.batch import variance_of
from sae_core.training.config import TrainingConfig
from sae_core.training.curves import Curve, Tracker
from sae_core.training.state import TrainingState, saved_steps

__all__ = ["ActivationSource", "TrainingConfig", "train", "train_together"]

START_SAMPLE = 16_384
"""Activations that start values are computed from."""
REPORT_SECONDS = 0.5
CHECKPOINT_SECONDS = 10.0
"""Least time between checkpoints that the clock asks for."""


class ActivationSource(Protocol):
    """Where activations come from: a cache on disk, or a model that runs as needed.

    For a transcoder a row is its input followed by its target.
    """

    @property
    def d_in(self) -> int:
        """Width of what an SAE reads."""

    @property
    def d_out(self) -> int | None:
        """Width of what a transcoder is to reconstruct; None where the rows are for autoencoders."""

    def batches(
        self, batch_size: int, *, seed: int, skip: int = 0, part: slice = slice(None)
    ) -> Iterator[Float[Tensor, "batch d_in+d_out"]]:
        """Endless shuffled batches, the same for the same seed; `skip` batches are already consumed.

        Of each batch only the rows of `part` are given.
        """

    def validation(self, batch_size: int) -> Iterator[Float[Tensor, "batch d_in+d_out"]]:
        """Held-out rows, once."""


def train(
    config: TrainingConfig,
    source: ActivationSource,
    folder: Path,
    *,
    device: torch.device | str = "auto",
    progress: Progress = silent,
    trackers: Sequence[Tracker] = (),
    grid: Grid = SINGLE_PROCESS,
) -> SAE:
    """Train an SAE and return its inference form; the caller saves it.

    State is kept in `folder`. A run that was stopped goes on from its last checkpoint, and on the CPU ends with the
    same bits as one that never stopped; a finished run returns at once. `progress` gets the activations done and the
    activations in all, and for every point of the curves what `curves.Curve` measures; `trackers` get the points
    too, and `curves.jsonl` in the folder keeps them.

    Raises:
        SAEError: the config makes no sense, or the activations are not numbers.
        CheckpointError: the folder holds another run, or no checkpoint there can be read.
        TrainingDiverged: the loss is no longer a number; the last good checkpoint is kept.
        ArtifactError: the disk is full.
    """
    (sae,) = train_together(
        [config], source, [folder], device=device, progress=progress, trackers=[trackers], grid=grid
    )
    return sae


def train_together(
    configs: Sequence[TrainingConfig],
    source: ActivationSource,
    folders: Sequence[Path],
    *,
    device: torch.device | str = "auto",
    progress: Progress = silent,
    trackers: Sequence[Sequence[Tracker]] = (),
    names: Sequence[str] = (),
    grid: Grid = SINGLE_PROCESS,
) -> list[SAE]:
    """Train several SAEs on one stream of activations, so that each batch is made once for all of them.

    As `train`, with a folder, and if wanted trackers, for each SAE. `progress` gets each SAE's points under its name:
    `loss` of the SAE named `wide` is `wide/loss`. All configs have the same samples, batch size and seed.

    Raises:
        SAEError: the configs want different batches; otherwise as `train`.
    """
    reuse_freed_memory()
    configs = [config.resolved() for config in configs]
    first = configs[0]
    for name in ("samples", "batch_size", "seed"):
        if len({getattr(config, name) for config in configs}) > 1:
            raise SAEError(f"SAEs that are trained together see the same batches: give all of them the same {name}.")
    device = resolve_device(device)
    if any(config.precision == "tf32" for config in configs):
        torch.set_float32_matmul_precision("high")
    states = _states(configs, source, folders, device, grid)
    curves = [
        Curve(state, own, label)
        for state, own, label in zip(states, trackers or [()] * len(states), names or [""] * len(states), strict=True)
    ]
    begin = min(state.step for state in states)
    progress(min(begin * first.batch_size, first.samples), first.samples)
    reported = checkpointed = time.monotonic()
    pause = CHECKPOINT_SECONDS
    part = grid.tokens.part(first.batch_size)
    batches = source.batches(first.batch_size, seed=first.seed, skip=begin, part=part)
    for step, batch in enumerate(islice(batches, first.steps - begin), start=begin + 1):
        rows = batch.to(device, non_blocking=True)
        points: dict[str, float] = {}
        for state, curve in zip(states, curves, strict=True):
            if state.step < step:  # else a checkpoint of this one is ahead of the others'
                points |= curve.after(take_step(state, rows))
        now = time.monotonic()
        due = step == first.steps or step % first.checkpoint_every == 0 or now - checkpointed >= pause
        if _agree(due, grid, device):
            for state in states:
                state.save()
            checkpointed = time.monotonic()
            pause = max(CHECKPOINT_SECONDS, 20 * (checkpointed - now))  # saving takes a twentieth of the time at most
        if points or now - reported >= REPORT_SECONDS:
            progress(min(step * first.batch_size, first.samples), first.samples, points or None)
            reported = now
    return [state.finished() for state in states]


def take_step(state: TrainingState, rows: Float[Tensor, "batch d_in+d_out"]) -> Losses:
    """One step of gradient descent on this process' part of a batch, in the model's own units.

    Raises:
        TrainingDiverged: before a weight is touched, if the loss or a gradient is not a number.
    """
    sae, config, tokens = state.sae, state.config, state.grid.tokens
    x = rows[:, : sae.d_in] * sae.input_scale
    target = rows[:, sae.d_in :] * sae.output_scale if sae.is_transcoder else x
    whole = Batch(
        x,
        target,
        variance_of(target, tokens),
        dead=state.dead(),
        sparsity_warmup=min(1.0, (state.step + 1) / max(1.0, config.sparsity_warmup * config.steps)),
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
    if not math.isfinite(losses.total.item() + norm.item()):
        raise _diverged(state, rows)
    clip_grads_with_norm_(sae.parameters(), state.clip, norm, foreach=False)
    state.descend()
    sae.normalise_decoder()
    state.step += 1
    state.last_active[tokens.all_reduce(losses.active.int()) > 0] = state.samples
    state.targets.add(target, tokens)
    return losses


def _reduce_gradients(state: TrainingState) -> Float[Tensor, ""]:
    """Sum the gradients of all processes, keep what moves a decoder row across itself; the whole gradient's norm."""
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
    """The losses of a batch that was taken in parts of one size."""
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


def _agree(due: bool, grid: Grid, device: torch.device) -> bool:
    """Whether a checkpoint is due for every process, which must write it at the same step, because it is for one."""
    if grid.tokens.size * grid.features.size == 1:
        return due
    votes = torch.tensor(float(due), device=device)
    return bool(grid.features.all_reduce(grid.tokens.all_reduce(votes)) > 0)


def _states(
    configs: Sequence[TrainingConfig],
    source: ActivationSource,
    folders: Sequence[Path],
    device: torch.device,
    grid: Grid,
) -> list[TrainingState]:
    """Each SAE's state from its newest checkpoint, or before the first step."""
    states = []
    sample: Tensor | None = None
    for config, folder in zip(configs, folders, strict=True):
        state = TrainingState.resume(config, source.d_in, folder, device, d_out=source.d_out, grid=grid)
        if state is None:
            state = TrainingState.create(config, source.d_in, folder, device, d_out=source.d_out, grid=grid)
            sample = _sample(config, source, device) if sample is None else sample
            x, target = sample[:, : source.d_in], sample[:, source.d_in :]
            state.sae.initialise(x, config.seed, target=target if source.d_out else None, features=grid.features)
        states.append(state)
    return states


def _sample(
    config: TrainingConfig, source: ActivationSource, device: torch.device
) -> Float[Tensor, "sample d_in+d_out"]:
    """The first activations, which start values are computed from."""
    batches = math.ceil(min(START_SAMPLE, config.samples) / config.batch_size)
    sample = torch.cat(list(islice(source.batches(config.batch_size, seed=config.seed), batches))).to(device)
    if not sample.isfinite().all():
        raise SAEError("The activations hold NaN or infinite values. Check the model, or choose another hook point.")
    if bool((sample == sample[0]).all()):
        raise SAEError("The activations are the same on every token, so there is nothing to learn. Use more text.")
    return sample


def _diverged(state: TrainingState, batch: Float[Tensor, "batch d_in"]) -> TrainingDiverged:
    where = f"Training stopped at step {state.step + 1} of {state.config.steps}:"
    steps = saved_steps(state.folder)
    kept = f"The checkpoint of step {steps[-1]} in {state.folder} is kept." if steps else "There was no checkpoint yet."
    if not batch.isfinite().all():
        return TrainingDiverged(f"{where} the activations hold NaN or infinite values. {kept} Check the model.")
    return TrainingDiverged(
        f"{where} the loss is no longer a number. {kept} Train again with a learning rate below {state.config.lr:.1e}."
    )
