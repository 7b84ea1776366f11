"""The state of a training run, and its checkpoints: whole or absent, the last two kept."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import torch
from jaxtyping import Int
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from sae_core.errors import CheckpointError
from sae_core.running_variance import RunningVariance
from sae_core.saes import SAE
from sae_core.tensor_files import write_tensors
from sae_core.training_config import TrainingConfig

KEPT = 2
"""Checkpoints that stay on disk."""


@dataclass
class TrainingState:
    """All that a run needs to go on. No random state is in it: start values and data order come from the seed."""

    config: TrainingConfig
    folder: Path
    """Where checkpoints go."""
    sae: SAE
    optimiser: torch.optim.Adam
    """Of the SAE's parameters as they lie in memory: fused Adam copies a tensor that is laid out otherwise."""
    inputs: RunningVariance
    """Of the scaled activations so far: what explained variance is measured against."""
    last_active: Int[Tensor, " d_sae"]
    """Activations seen when each feature was last active."""
    step: int = 0
    """Steps done; also the batches consumed."""

    @classmethod
    def create(cls, config: TrainingConfig, d_in: int, folder: Path, device: torch.device) -> Self:
        """The state before the first step, without start values."""
        sae = config.sae(d_in).to(device)
        return cls(
            config=config,
            folder=folder,
            sae=sae,
            optimiser=torch.optim.Adam(
                [nn.Parameter(_as_laid_out(parameter.detach())) for parameter in sae.parameters()],
                betas=(config.beta1, config.beta2),
                fused=True,
            ),
            inputs=RunningVariance.empty(d_in, device),
            last_active=torch.zeros(config.d_sae, dtype=torch.int64, device=device),
        )

    @property
    def samples(self) -> int:
        """Activations seen."""
        return self.step * self.config.batch_size

    def dead(self) -> Int[Tensor, " dead"]:
        """Features that the last `dead_after` activations left inactive."""
        assert self.config.dead_after is not None, "resolved() comes first"
        return (self.samples - self.last_active > self.config.dead_after).nonzero().squeeze(1)

    def descend(self) -> None:
        """Move the parameters by their gradients, then drop these."""
        config, optimiser = self.config, self.optimiser
        for parameter, laid_out in self._optimised():
            laid_out.grad = None if parameter.grad is None else _as_laid_out(parameter.grad)
        optimiser.param_groups[0]["lr"] = config.learning_rate(self.step)
        optimiser.step()
        optimiser.zero_grad()
        self.sae.zero_grad()

    def save(self) -> None:
        """Write a checkpoint, then delete all but the last two.

        Raises:
            ArtifactError: if the disk is full.
        """
        metadata = {"step": str(self.step), "run": json.dumps(_identity(self.config))}
        write_tensors(_path(self.folder, self.step), self._tensors(), metadata)
        for step in saved_steps(self.folder)[:-KEPT]:
            _path(self.folder, step).unlink()

    @classmethod
    def resume(cls, config: TrainingConfig, d_in: int, folder: Path, device: torch.device) -> Self | None:
        """The state in the newest checkpoint that can be read; None where a run has not begun.

        Raises:
            CheckpointError: if the folder holds another run, or checkpoints of which none can be read.
        """
        saved = _load_newest(folder)
        if saved is None:
            return None
        tensors, metadata = saved
        state = cls.create(config, d_in, folder, device)
        if json.loads(metadata["run"]) != _identity(config) or tensors["sae.b_dec"].shape != (d_in,):
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

    def _optimised(self) -> Iterator[tuple[nn.Parameter, nn.Parameter]]:
        """Each parameter with the view of it that the optimiser moves."""
        return zip(self.sae.parameters(), self.optimiser.param_groups[0]["params"], strict=True)

    def _tensors(self) -> dict[str, Tensor]:
        """Every tensor of the state by name."""
        tensors = {f"sae.{name}": tensor for name, tensor in self.sae.state_dict(keep_vars=True).items()}
        for number, (_, laid_out) in enumerate(self._optimised()):
            for key, tensor in self.optimiser.state[laid_out].items():
                tensors[f"optimiser.{number}.{key}"] = tensor
        inputs = {f"inputs.{name}": tensor for name, tensor in vars(self.inputs).items()}
        return {**tensors, **inputs, "last_active": self.last_active}


def _as_laid_out(tensor: Tensor) -> Tensor:
    """The tensor, or its transpose if that is contiguous: `W_enc` lies in memory by feature."""
    return tensor.t() if tensor.ndim == 2 and tensor.t().is_contiguous() else tensor


def saved_steps(folder: Path) -> list[int]:
    """Steps that have a checkpoint, ascending."""
    return sorted(int(path.stem.removeprefix("step-")) for path in folder.glob("step-*.safetensors"))


def _load_newest(folder: Path) -> tuple[dict[str, Tensor], Mapping[str, str]] | None:
    for abandoned in folder.glob(".step-*.tmp"):  # by a process that was killed while it wrote
        abandoned.unlink()
    steps = saved_steps(folder)
    for step in reversed(steps):
        try:
            with safe_open(_path(folder, step), framework="pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
        except (SafetensorError, OSError):
            continue
    if steps:
        raise CheckpointError(f"No checkpoint in {folder} can be read. Delete the folder to train from the start.")
    return None


def _identity(config: TrainingConfig) -> dict[str, Any]:
    """What must agree between a run and the one that resumes it."""
    return {name: value for name, value in asdict(config).items() if name != "checkpoint_every"}


def _path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:09d}.safetensors"
