"""The curves of a training run: a point every few steps, kept as JSON lines and optionally sent to trackers.

A point is a mean over steps, not over seconds, and the sums behind it are in the checkpoint. So a run that was killed
and continued has the same curves as one that never stopped.
"""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from sae_core.errors import SAEError
from sae_core.saes import Losses
from sae_core.training.state import TrainingState

CURVES = "curves.jsonl"


class Tracker(Protocol):
    """Receives the points of a run's curves."""

    def log(self, step: int, point: Mapping[str, float]) -> None:
        """Record the point of this step; after a resume it may come a second time."""


class Curve:
    """Computes the points of one SAE's curves.

    A point has the mean over its steps of `loss` and `l0`, `explained_variance` of the scaled targets (1 − mean squared
    error / variance so far), `dead_fraction`, `learning_rate`, where training controls it λ as `l1_coefficient`, and
    `samples_per_s`, which alone depends on the clock.
    """

    def __init__(self, state: TrainingState, trackers: Sequence[Tracker] = (), name: str = "") -> None:
        self._state = state
        self._prefix = f"{name}/" if name else ""
        self._trackers = [*([JsonLines(state.folder, state.step)] if state.grid.is_first else []), *trackers]
        self._since, self._from = time.monotonic(), state.step

    def is_due(self) -> bool:
        """True if the step that was just done completes a point."""
        config = self._state.config
        assert config.log_every is not None, "resolved() comes first"
        return self._state.step % config.log_every == 0 or self._state.step == config.steps

    def after(self, losses: Losses) -> dict[str, float]:
        """Add the step that was just done; return the point that it completes, by prefixed names, if it does."""
        state, config = self._state, self._state.config
        assert config.log_every is not None, "resolved() comes first"
        state.sums += torch.stack([losses.total.detach(), losses.mse, losses.l0]).double()
        if not self.is_due():
            return {}
        steps = (state.step - 1) % config.log_every + 1
        loss, mse, l0 = (state.sums / steps).tolist()
        now = time.monotonic()
        point = {
            "loss": loss,
            "explained_variance": 1 - mse / state.targets.variance(),
            "l0": l0,
            "dead_fraction": state.dead_fraction(),
            "learning_rate": config.learning_rate(state.step - 1),
            "samples_per_s": (state.step - self._from) * config.batch_size / max(now - self._since, 1e-9),
        }
        if (l1_coefficient := state.l1_coefficient()) is not None:
            point["l1_coefficient"] = l1_coefficient
        state.sums.zero_()
        self._since, self._from = now, state.step
        for tracker in self._trackers:
            tracker.log(state.step, point)
        return {f"{self._prefix}{name}": value for name, value in point.items()}


class JsonLines:
    """`curves.jsonl` in a folder: one line per point, with its `step`."""

    def __init__(self, folder: Path, step: int) -> None:
        """Drop the points after `step`: those that a killed run wrote past its last checkpoint come again."""
        self._path = folder / CURVES
        folder.mkdir(parents=True, exist_ok=True)
        kept = [line for line in read_curves(folder) if line["step"] <= step]
        self._path.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")

    def log(self, step: int, point: Mapping[str, float]) -> None:
        """Append the point."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **point}) + "\n")


def read_curves(folder: Path) -> list[dict[str, Any]]:
    """Return the points in `curves.jsonl`; a last line that was cut short is left out."""
    path = folder / CURVES
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


class TensorBoard:
    """Writes points as TensorBoard's event files. Needs the extra `seesae[tensorboard]`."""

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise SAEError(
                "TensorBoard is not installed. Install it with: pip install 'seesae[tensorboard]'"
            ) from error
        self._writer = SummaryWriter(str(folder))

    def log(self, step: int, point: Mapping[str, float]) -> None:
        """Write the point and flush, so that it shows at once."""
        for name, value in point.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()


class WeightsAndBiases:
    """Sends points to a run of Weights & Biases. Needs `seesae[wandb]`; W&B's own WANDB_* variables apply."""

    def __init__(self, name: str, config: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ImportError as error:
            raise SAEError("Weights & Biases is not installed. Install it with: pip install 'seesae[wandb]'") from error
        self._run = wandb.init(project="seesae", name=name, id=name, resume="allow", config=dict(config))

    def log(self, step: int, point: Mapping[str, float]) -> None:
        """Send the point."""
        self._run.log(dict(point), step=step)
