"""The state of a training run, and its checkpoints: whole or absent, the last few kept."""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from sae_core.devices import answers_at_once
from sae_core.errors import CheckpointError, SAEError, TrainingDiverged
from sae_core.kernels.selection import positions
from sae_core.parallel import SINGLE_PROCESS, Axis, Grid
from sae_core.saes import SAE, Batch, Losses
from sae_core.tensor_files import write_tensors
from sae_core.training.config import GRADIENT_RMS, TrainingConfig
from sae_core.training.l0_control import L0Control
from sae_core.training.running_variance import RunningVariance


@dataclass
class TrainingState:
    """Everything that a run needs to continue. Start values and data order come from the seed, so no random state."""

    config: TrainingConfig
    folder: Path
    """Folder of the checkpoints; the same for all processes that train one SAE."""
    grid: Grid
    """The processes that train the SAE."""
    sae: SAE
    """Has the features of this process."""
    optimiser: torch.optim.Adam
    """Of the SAE's parameters as they lie in memory: fused Adam copies a tensor that is laid out otherwise."""
    targets: RunningVariance
    """Of the scaled targets so far: what explained variance is measured against."""
    last_active: Int[Tensor, " d_sae"]
    """Activations seen when each feature was last active."""
    losses: Callable[[Batch], Losses]
    """The SAE's losses, compiled if the config says so."""
    l0_control: L0Control | None
    """Sets λ, where the config leaves it open."""
    is_bad: Float[Tensor, ""]
    """1 after a loss or a gradient that was not a number, else 0: the form that the optimiser takes."""
    sums: Float[Tensor, "3"]
    """Loss, squared error and L0, summed over the steps since the curves' last point."""
    step: int = 0
    """Steps done; also the batches consumed."""
    _listed: Int[Tensor, " dead"] | None = None

    @classmethod
    def create(
        cls,
        config: TrainingConfig,
        d_in: int,
        folder: Path,
        device: torch.device,
        *,
        d_out: int | None = None,
        grid: Grid = SINGLE_PROCESS,
    ) -> Self:
        """Return the state before the first step, without start values.

        Raises:
            SAEError: the batch or the dictionary cannot be shared out evenly among the processes.
        """
        for what, count, parts in (
            ("batch_size", config.batch_size, grid.tokens.size * config.accumulate),
            ("d_sae", config.d_sae, grid.features.size),
        ):
            if count % parts:
                raise SAEError(
                    f"{what} is {count}, which {parts} parts cannot share evenly. Give a multiple of {parts}."
                )
        sae = config.sae(d_in, d_out, shards=grid.features.size).to(device)
        return cls(
            config=config,
            folder=folder,
            grid=grid,
            sae=sae,
            optimiser=torch.optim.Adam(
                [
                    {"params": nn.Parameter(_as_laid_out(tensor.detach())), "factor": sae.lr_factors.get(name, 1.0)}
                    for name, tensor in sae.named_parameters()
                ],
                betas=(config.beta1, config.beta2),
                fused=True,
            ),
            targets=RunningVariance.empty(sae.d_out, device),
            last_active=torch.zeros(sae.d_sae, dtype=torch.int64, device=device),
            losses=torch.compile(sae.losses) if config.compile else sae.losses,
            l0_control=L0Control.start(config.k, config.steps, device) if config.controls_l0 else None,
            is_bad=torch.zeros((), device=device),
            sums=torch.zeros(3, dtype=torch.float64, device=device),
        )

    @property
    def samples(self) -> int:
        """Activations seen."""
        return self.step * self.config.batch_size

    @property
    def clip(self) -> float:
        """Largest norm of the gradient, over all processes' parameters."""
        if self.config.clip is not None:
            return self.config.clip
        shards = self.grid.features.size
        parameters = sum(
            tensor.numel() * (1 if name in self.sae.replicated else shards)
            for name, tensor in self.sae.named_parameters()
        )
        return GRADIENT_RMS * math.sqrt(parameters)

    def sparsity(self) -> float | Float[Tensor, ""]:
        """Return the factor on the sparsity penalty at this step: what the controller says, else a warm-up to 1."""
        if self.l0_control is not None:
            return self.l0_control.factor()
        return min(1.0, (self.step + 1) / max(1.0, self.config.sparsity_warmup * self.config.steps))

    def l1_coefficient(self) -> float | None:
        """Return the λ that the controller has come to; None where there is no controller."""
        if self.l0_control is None:
            return None
        start: float = getattr(self.sae.config, "l1_coefficient")  # noqa: B009 (not every architecture has it)
        return float(self.l0_control.factor()) * start

    def dead(self) -> Int[Tensor, " dead"]:
        """Return the features that the last `dead_after` activations left inactive."""
        assert self.config.dead_after is not None, "resolved() comes first"
        return positions(self.samples - self.last_active > self.config.dead_after)

    def listed_dead(self) -> Int[Tensor, " dead"]:
        """Return `dead`, on a GPU as it was at the last point of the curves: its length is a thing to wait for."""
        assert self.config.log_every is not None, "resolved() comes first"
        if answers_at_once(self.last_active) or self._listed is None or self.step % self.config.log_every == 0:
            self._listed = self.dead()
        return self._listed

    def dead_fraction(self) -> float:
        """Return the share of all features that are dead; every process of the grid calls it together."""
        dead = self.grid.features.all_reduce(torch.tensor(len(self.dead()), device=self.last_active.device))
        return int(dead) / self.config.d_sae

    def descend(self) -> None:
        """Update the parameters by their gradients, then drop the gradients."""
        config, optimiser = self.config, self.optimiser
        for parameter, laid_out in self._optimised():
            laid_out.grad = None if parameter.grad is None else _as_laid_out(parameter.grad)
        for group in optimiser.param_groups:
            group["lr"] = group["factor"] * config.learning_rate(self.step)
        if not answers_at_once(self.is_bad):
            vars(optimiser)["found_inf"] = self.is_bad  # fused Adam then leaves the weights as they are
        optimiser.step()
        optimiser.zero_grad()
        self.sae.zero_grad()

    def save(self) -> None:
        """Write a checkpoint, then delete all but the last few. Of processes that hold the same, the first one writes.

        Raises:
            ArtifactError: the disk is full.
        """
        if self.grid.tokens.rank:
            return
        folder = _shard_folder(self.folder, self.grid.features)
        metadata = {"step": str(self.step), "run": json.dumps(_identity(self.config))}
        write_tensors(_path(folder, self.step), self._tensors(), metadata)
        for step in saved_steps(folder)[: -self.config.keep]:
            _path(folder, step).unlink(missing_ok=True)

    @classmethod
    def resume(
        cls,
        config: TrainingConfig,
        d_in: int,
        folder: Path,
        device: torch.device,
        *,
        d_out: int | None = None,
        grid: Grid = SINGLE_PROCESS,
    ) -> Self | None:
        """Return the state in the newest checkpoint that can be read; None if the run has no checkpoint.

        Raises:
            CheckpointError: the folder holds another run, or checkpoints of which none can be read.
        """
        saved = _load_newest(_shard_folder(folder, grid.features), grid.features, device)
        if saved is None:
            return None
        tensors, metadata = saved
        state = cls.create(config, d_in, folder, device, d_out=d_out, grid=grid)
        shapes = {name: tensor.shape for name, tensor in state.sae.state_dict().items()}
        if json.loads(metadata["run"]) != _identity(config) or any(
            f"sae.{name}" not in tensors or tensors[f"sae.{name}"].shape != shape for name, shape in shapes.items()
        ):
            raise CheckpointError(f"{folder} holds a run with another config. Train in an empty folder.")
        state.step = int(metadata["step"])
        for _, laid_out in state._optimised():
            zeros = torch.zeros_like(laid_out, requires_grad=False)
            state.optimiser.state[laid_out] = {
                "step": torch.zeros((), device=device),
                "exp_avg": zeros,
                "exp_avg_sq": zeros.clone(),
            }
        with torch.no_grad():
            for name, tensor in state._tensors().items():
                tensor.copy_(tensors[name])
        return state

    def finished(self) -> SAE:
        """Return the inference form of the whole SAE; every process of the grid calls it together."""
        features = self.grid.features
        if features.size == 1:
            return self.sae.for_inference()
        sae = self.config.sae(self.sae.d_in, self.sae.config.d_out)
        with torch.no_grad():
            for name, own in self.sae.state_dict().items():
                whole = sae.state_dict()[name]
                if own.ndim == 0 or name in SAE.replicated:
                    whole.copy_(own)
                else:
                    whole.copy_(features.gather(own, dim=1 if name == "W_enc" else 0))
        return sae.for_inference()

    def _optimised(self) -> Iterator[tuple[nn.Parameter, nn.Parameter]]:
        """Yield each parameter with the view of it that the optimiser updates."""
        laid_out = (group["params"][0] for group in self.optimiser.param_groups)
        return zip(self.sae.parameters(), laid_out, strict=True)

    def _tensors(self) -> dict[str, Tensor]:
        """Return every tensor of the state by name."""
        tensors = {f"sae.{name}": tensor for name, tensor in self.sae.state_dict(keep_vars=True).items()}
        for number, (_, laid_out) in enumerate(self._optimised()):
            for key, tensor in self.optimiser.state[laid_out].items():
                tensors[f"optimiser.{number}.{key}"] = tensor
        targets = {f"targets.{name}": tensor for name, tensor in vars(self.targets).items()}
        control = {} if self.l0_control is None else {"l0_control": self.l0_control.numbers}
        return {**tensors, **targets, **control, "last_active": self.last_active, "sums": self.sums}


def _as_laid_out(tensor: Tensor) -> Tensor:
    """Return the tensor, or its transpose if that is contiguous: `W_enc` lies in memory by feature."""
    return tensor.t() if tensor.ndim == 2 and tensor.t().is_contiguous() else tensor


def saved_steps(folder: Path) -> list[int]:
    """Return the steps that have a checkpoint, ascending."""
    return sorted(int(path.stem.removeprefix("step-")) for path in folder.glob("step-*.safetensors"))


_COMPARED = 64
"""Newest checkpoints of each shard among which one that all shards have is searched."""


def _load_newest(
    folder: Path, features: Axis, device: torch.device
) -> tuple[dict[str, Tensor], Mapping[str, str]] | None:
    steps = saved_steps(folder)
    for step in reversed(_common(steps, features, device)):
        try:
            with safe_open(_path(folder, step), framework="pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
        except (SafetensorError, OSError):
            continue
    if steps:
        raise CheckpointError(f"No checkpoint in {folder} can be read. Delete the folder to train from the start.")
    return None


def _common(steps: list[int], features: Axis, device: torch.device) -> list[int]:
    """Return those steps that every shard of the dictionary has, ascending: a kill may come between two writes."""
    newest = ([-1] * _COMPARED + steps)[-_COMPARED:]
    of_shards = features.gather(torch.tensor([newest], device=device)).tolist()
    return sorted(set(newest).intersection(*of_shards) - {-1})


def _shard_folder(folder: Path, features: Axis) -> Path:
    """Return the folder of this process' features."""
    return folder if features.size == 1 else folder / f"part-{features.rank + 1}-of-{features.size}"


def _identity(config: TrainingConfig) -> dict[str, Any]:
    """Return the settings that a run and the one that resumes it must share, as JSON gives them back."""
    changeable = ("checkpoint_every", "keep")
    identity = {name: value for name, value in config.identity().items() if name not in changeable}
    return json.loads(json.dumps(identity))  # type: ignore[no-any-return]


def _path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:09d}.safetensors"


def diverged(state: TrainingState, when: str, *, by_data: bool) -> TrainingDiverged:
    """Return the error for a step whose loss or gradient is not a number.

    Args:
        state: at that step.
        when: such as "at step 3".
        by_data: True if the activations themselves are not numbers.
    """
    where = f"Training stopped {when} of {state.config.steps}:"
    steps = saved_steps(state.folder)
    kept = f"The checkpoint of step {steps[-1]} in {state.folder} is kept." if steps else "There was no checkpoint yet."
    if by_data:
        return TrainingDiverged(f"{where} the activations hold NaN or infinite values. {kept} Check the model.")
    return TrainingDiverged(
        f"{where} the loss is no longer a number. {kept} Train again with a learning rate below {state.config.lr:.1e}."
    )
