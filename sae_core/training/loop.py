"""The training loop, which a killed run resumes.

The recipe is the field's: Adam, a short warm-up and a linear decay over the last fifth, unit decoder rows with the
gradient component along them removed, `b_dec` from the geometric median, activations scaled to a mean norm of √d_in.
"""

import logging
import math
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from sae_core.devices import float32_products, resolve_device
from sae_core.errors import SAEError
from sae_core.kernels import gpu
from sae_core.memory import reuse_freed_memory
from sae_core.parallel import SINGLE_PROCESS, Grid
from sae_core.progress import Progress, silent
from sae_core.saes import SAE, JumpReLU
from sae_core.training.clock import CheckpointClock, Reports
from sae_core.training.config import TrainingConfig
from sae_core.training.curves import Curve, Tracker
from sae_core.training.source import ActivationSource
from sae_core.training.state import TrainingState
from sae_core.training.step import Step, step_for

_log = logging.getLogger(__name__)

START_SAMPLE = 16_384
"""Activations that start values are computed from."""


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
    """Train an SAE and return its inference form, which the caller saves.

    State is kept in `folder`. A run that was stopped continues from its last checkpoint, and on the CPU ends with the
    same bits as one that never stopped; a finished run returns at once. `progress` gets the activations done and the
    activations in all, and with them every point of the curves (see `curves.Curve`); `trackers` get the points too,
    and `curves.jsonl` in the folder keeps them.

    Raises:
        SAEError: the config is not valid, or the activations are not numbers.
        CheckpointError: the folder holds another run, or no checkpoint there can be read.
        TrainingDiverged: the loss is not finite; the last good checkpoint is kept.
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

    As `train`, with a folder, and optionally trackers, for each SAE. `progress` gets each SAE's points under its name:
    `loss` of the SAE named `wide` is `wide/loss`. All configs have the same samples, batch size and seed.

    Raises:
        SAEError: the configs need different batches or kernels; otherwise as `train`.
    """
    reuse_freed_memory()
    device = resolve_device(device)
    configs = _resolved(configs, device)
    shared = configs[0]
    states = _states(configs, source, folders, device, grid)
    triton = shared.kernels == "triton" and _kernels_agree(configs, source, device)
    runs = [
        _Run(state, step_for(state, triton=triton), Curve(state, own, name))
        for state, own, name in zip(states, trackers or [()] * len(states), names or [""] * len(states), strict=True)
    ]
    begin = min(state.step for state in states)
    clock, reports = CheckpointClock(shared, grid, device), Reports(progress, shared, begin)
    part = grid.tokens.part(shared.batch_size)
    batches = source.batches(shared.batch_size, seed=shared.seed, skip=begin, part=part)
    with gpu.enabled() if triton else nullcontext():
        for step, batch in enumerate(islice(batches, shared.steps - begin), start=begin + 1):
            rows = batch.to(device, non_blocking=True)
            points: dict[str, float] = {}
            for run in runs:
                if run.state.step < step:  # else a checkpoint of this one is ahead of the others'
                    points |= run.advance(rows)
            if clock.is_due(step):
                for run in runs:
                    run.save()
                clock.restart()
            reports.after(step, points)
    del batches  # with what a stream holds for the next ones
    return _calibrated([state.finished() for state in states], configs, source, device)


@dataclass(frozen=True)
class _Run:
    """The training of one SAE."""

    state: TrainingState
    take_step: Step
    curve: Curve

    def advance(self, rows: Float[Tensor, "batch d_in+d_out"]) -> dict[str, float]:
        """Take a step; return the point of the curves that it completes, if any."""
        # Only for the step: a stream's model runs between two steps, and other SAEs may have another precision.
        with float32_products(tf32=self.state.config.precision == "tf32"):
            losses = self.take_step(rows)
        if self.curve.is_due():
            self.take_step.check()
        return self.curve.after(losses)

    def save(self) -> None:
        """Write a checkpoint."""
        self.take_step.check()
        self.state.save()


def _resolved(configs: Sequence[TrainingConfig], device: torch.device) -> list[TrainingConfig]:
    """Return the configs without None, which all need the same batches and kernels, on a device that can train them."""
    resolved = [config.resolved() for config in configs]
    for name in ("samples", "batch_size", "seed"):
        if len({getattr(config, name) for config in resolved}) > 1:
            raise SAEError(f"SAEs that are trained together see the same batches: give all of them the same {name}.")
    if len({config.kernels for config in resolved}) > 1:
        raise SAEError("SAEs that are trained together use the same kernels. Give all of them the same.")
    if resolved[0].kernels == "triton" and not gpu.can_run_on(device):
        raise SAEError(f"Triton kernels need an NVIDIA GPU, but training runs on {device.type}. Choose torch.")
    return resolved


def _states(
    configs: Sequence[TrainingConfig],
    source: ActivationSource,
    folders: Sequence[Path],
    device: torch.device,
    grid: Grid,
) -> list[TrainingState]:
    """Return each SAE's state from its newest checkpoint, or with its start values."""
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


def _calibrated(
    saes: list[SAE], configs: Sequence[TrainingConfig], source: ActivationSource, device: torch.device
) -> list[SAE]:
    """Give the SAEs that were trained as JumpReLU the L0 that was asked for, on activations of the training.

    Not on the first ones: fewer features are active on those that start values were computed from.
    """
    sample: Tensor | None = None
    for sae, config in zip(saes, configs, strict=True):
        if config.architecture == JumpReLU.architecture and isinstance(sae, JumpReLU):
            sample = _sample(config, source, device, later=True) if sample is None else sample
            sae.calibrate(sample[:, : source.d_in].to(sae.b_dec.device))  # one put together from parts is on the CPU
    return saes


def _kernels_agree(configs: Sequence[TrainingConfig], source: ActivationSource, device: torch.device) -> bool:
    """True if the kernels for GPUs train these SAEs as torch does, on the first batch; else a warning says so."""
    from sae_core.training.self_check import disagreement

    rows = next(source.batches(configs[0].batch_size, seed=configs[0].seed)).to(device)
    for config in configs:
        if found := disagreement(config, source.d_in, source.d_out, rows):
            _log.warning(
                "The Triton kernels do not train %s as torch does on this GPU: %s. This run goes on with torch.",
                config.architecture,
                found,
            )
            return False
    return True


def _sample(
    config: TrainingConfig, source: ActivationSource, device: torch.device, *, later: bool = False
) -> Float[Tensor, "sample d_in+d_out"]:
    """Return the first activations, which start values are computed from, or as many that come next."""
    batches = math.ceil(min(START_SAMPLE, config.samples) / config.batch_size)
    drawn = source.batches(config.batch_size, seed=config.seed, skip=batches if later else 0)
    sample = torch.cat(list(islice(drawn, batches))).to(device)
    if not sample.isfinite().all():
        raise SAEError("The activations hold NaN or infinite values. Check the model, or choose another hook point.")
    if bool((sample == sample[0]).all()):
        raise SAEError("The activations are the same on every token, so there is nothing to learn. Use more text.")
    return sample
