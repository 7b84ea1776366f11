"""Train an SAE: the step, and the loop that a killed run resumes.

The recipe is the field's: Adam, a short warm-up and a linear decay over the last fifth, unit decoder rows with the
gradient component along them removed, `b_dec` from the geometric median, activations scaled to a mean norm of √d_in.
"""

import math
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from sae_core.devices import resolve_device
from sae_core.errors import SAEError, TrainingDiverged
from sae_core.progress import Progress, silent
from sae_core.saes import SAE, Losses
from sae_core.training_config import TrainingConfig
from sae_core.training_state import TrainingState, saved_steps

__all__ = ["ActivationSource", "TrainingConfig", "train"]

START_SAMPLE = 16_384
"""Activations that start values are computed from."""
REPORT_SECONDS = 0.5
CHECKPOINT_SECONDS = 10.0


class ActivationSource(Protocol):
    """Where activations come from: a cache on disk, or a model that runs as needed."""

    @property
    def d_in(self) -> int:
        """Width of the activations."""

    def batches(self, batch_size: int, *, seed: int, skip: int = 0) -> Iterator[Float[Tensor, "batch d_in"]]:
        """Endless shuffled batches, the same for the same seed; `skip` batches are already consumed."""

    def validation(self, batch_size: int) -> Iterator[Float[Tensor, "batch d_in"]]:
        """Held-out activations, once."""


def train(
    config: TrainingConfig,
    source: ActivationSource,
    folder: Path,
    *,
    device: torch.device | str = "auto",
    progress: Progress = silent,
) -> SAE:
    """Train an SAE and return its inference form; the caller saves it.

    State is kept in `folder`. A run that was stopped goes on from its last checkpoint, and on the CPU ends with the
    same bits as one that never stopped; a finished run returns at once. `progress` gets the activations done, the
    activations in all, and about twice a second `loss`, `explained_variance`, `l0`, `dead_fraction`, `learning_rate`
    and `samples_per_s`, each over the steps since the last report.

    Raises:
        SAEError: the config makes no sense, or the activations are not numbers.
        CheckpointError: the folder holds another run, or no checkpoint there can be read.
        TrainingDiverged: the loss is no longer a number; the last good checkpoint is kept.
        ArtifactError: the disk is full.
    """
    config = config.resolved()
    device = resolve_device(device)
    state = TrainingState.resume(config, source.d_in, folder, device) or _start(config, source, folder, device)
    progress(min(state.samples, config.samples), config.samples)
    meter = _Meter(state)
    checkpointed = time.monotonic()
    batches = source.batches(config.batch_size, seed=config.seed, skip=state.step)
    for batch in islice(batches, config.steps - state.step):
        meter.add(take_step(state, batch.to(device)))
        finished = state.step == config.steps
        due = state.step % config.checkpoint_every == 0 or time.monotonic() - checkpointed >= CHECKPOINT_SECONDS
        if due or finished:
            state.save()
            checkpointed = time.monotonic()
        if meter.due() or finished:
            progress(min(state.samples, config.samples), config.samples, meter.read())
    return state.sae.for_inference()


def take_step(state: TrainingState, batch: Float[Tensor, "batch d_in"]) -> Losses:
    """One step of gradient descent on a batch of activations in the model's own units.

    Raises:
        TrainingDiverged: before a weight is touched, if the loss or a gradient is not a number.
    """
    config, sae = state.config, state.sae
    x = batch * sae.input_scale
    warmth = min(1.0, (state.step + 1) / max(1.0, config.sparsity_warmup * config.steps))
    losses = sae.losses(x, state.dead(), warmth)
    torch.autograd.backward(losses.total)
    sae.remove_parallel_gradient()
    norm = clip_grad_norm_(sae.parameters(), config.clip, foreach=False)
    if not math.isfinite(losses.total.item() + norm.item()):
        raise _diverged(state, batch)
    state.descend()
    sae.normalise_decoder()
    state.step += 1
    state.last_active[losses.active] = state.samples
    state.inputs.add(x)
    return losses


def _start(config: TrainingConfig, source: ActivationSource, folder: Path, device: torch.device) -> TrainingState:
    """The state before the first step, with start values from the first activations."""
    batches = math.ceil(min(START_SAMPLE, config.samples) / config.batch_size)
    sample = torch.cat(list(islice(source.batches(config.batch_size, seed=config.seed), batches))).to(device)
    if not sample.isfinite().all():
        raise SAEError("The activations hold NaN or infinite values. Check the model, or choose another hook point.")
    if bool((sample == sample[0]).all()):
        raise SAEError("The activations are the same on every token, so there is nothing to learn. Use more text.")
    state = TrainingState.create(config, source.d_in, folder, device)
    state.sae.initialise(sample, config.seed)
    return state


def _diverged(state: TrainingState, batch: Float[Tensor, "batch d_in"]) -> TrainingDiverged:
    where = f"Training stopped at step {state.step + 1} of {state.config.steps}:"
    steps = saved_steps(state.folder)
    kept = f"The checkpoint of step {steps[-1]} in {state.folder} is kept." if steps else "There was no checkpoint yet."
    if not batch.isfinite().all():
        return TrainingDiverged(f"{where} the activations hold NaN or infinite values. {kept} Check the model.")
    return TrainingDiverged(
        f"{where} the loss is no longer a number. {kept} Train again with a learning rate below {state.config.lr:.1e}."
    )


class _Meter:
    """Averages over the steps since the last report."""

    def __init__(self, state: TrainingState) -> None:
        self.state = state
        self._reset()

    def _reset(self) -> None:
        self.since = time.monotonic()
        self.steps = 0
        self.sums = torch.zeros(3, dtype=torch.float64, device=self.state.inputs.mean.device)

    def add(self, losses: Losses) -> None:
        self.steps += 1
        self.sums += torch.stack([losses.total.detach(), losses.mse, losses.l0]).double()

    def due(self) -> bool:
        return time.monotonic() - self.since >= REPORT_SECONDS

    def read(self) -> dict[str, float]:
        state = self.state
        loss, mse, l0 = (self.sums / self.steps).tolist()
        metrics = {
            "loss": loss,
            "explained_variance": 1 - mse / state.inputs.variance(),
            "l0": l0,
            "dead_fraction": len(state.dead()) / state.config.d_sae,
            "learning_rate": state.config.learning_rate(state.step - 1),
            "samples_per_s": self.steps * state.config.batch_size / (time.monotonic() - self.since),
        }
        self._reset()
        return metrics
