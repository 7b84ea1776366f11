"""When a run writes a checkpoint, and when it reports its progress."""

import time
from collections.abc import Mapping

import torch

from sae_core.parallel import Grid
from sae_core.progress import Progress
from sae_core.training.config import TrainingConfig

CHECKPOINT_SECONDS = 10.0
"""Least time between checkpoints that the clock asks for."""
REPORT_SECONDS = 0.5
"""Least time between reports that bring no point of the curves."""


class CheckpointClock:
    """Decides when a checkpoint is due.

    One is due every `checkpoint_every` steps, after the last step, and when enough time has passed: at least
    `CHECKPOINT_SECONDS`, and twenty times as long as the last one took to write. All processes of the grid write at the
    same step, because they have to resume from the same one: it is due for all when it is due for one.
    """

    def __init__(self, config: TrainingConfig, grid: Grid, device: torch.device) -> None:
        self._config, self._grid, self._device = config, grid, device
        self._pause = CHECKPOINT_SECONDS
        self._since = self._asked = time.monotonic()

    def is_due(self, step: int) -> bool:
        """True if checkpoints are to be written after this step; every process asks together."""
        self._asked = time.monotonic()
        config, grid = self._config, self._grid
        due = step == config.steps or step % config.checkpoint_every == 0 or self._asked - self._since >= self._pause
        if grid.tokens.size * grid.features.size == 1:
            return due
        votes = torch.tensor(float(due), device=self._device)
        return bool(grid.features.all_reduce(grid.tokens.all_reduce(votes)) > 0)

    def restart(self) -> None:
        """Start the clock again, after the checkpoints that were due are written."""
        self._since = time.monotonic()
        self._pause = max(CHECKPOINT_SECONDS, 20 * (self._since - self._asked))


class Reports:
    """Passes a run's progress on: every point of the curves, and at most twice per second where it stands."""

    def __init__(self, progress: Progress, config: TrainingConfig, step: int) -> None:
        """Report that `step` steps are done."""
        self._progress, self._config = progress, config
        self._report(step)

    def after(self, step: int, points: Mapping[str, float]) -> None:
        """Report this step, with the points that it completed, unless there are none and the last report is recent."""
        if points or time.monotonic() - self._since >= REPORT_SECONDS:
            self._report(step, points or None)

    def _report(self, step: int, points: Mapping[str, float] | None = None) -> None:
        self._since = time.monotonic()
        samples = self._config.samples
        self._progress(min(step * self._config.batch_size, samples), samples, points)
