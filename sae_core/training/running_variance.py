"""The variance that explained variance is measured against."""

from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Float
from torch import Tensor

from sae_core.parallel import SINGLE_PROCESS, Axis


@dataclass
class RunningVariance:
    """Mean and E‖x − μ‖² of a stream of activations, in float64.

    Batches are merged as Chan, Golub and LeVeque (1979) do: E‖x‖² − ‖μ‖² would cancel where the mean is large, as it is
    in a residual stream.
    """

    count: Float[Tensor, ""]
    mean: Float[Tensor, " d_in"]
    squares: Float[Tensor, ""]
    """Σ ‖x − mean‖²."""

    @classmethod
    def empty(cls, d_in: int, device: torch.device) -> Self:
        """Return the moments of no activations."""
        zeros = torch.zeros(d_in + 2, dtype=torch.float64, device=device)
        return cls(zeros[0].clone(), zeros[2:].clone(), zeros[1].clone())

    def add(self, x: Float[Tensor, "batch d_in"], tokens: Axis = SINGLE_PROCESS.tokens) -> None:
        """Add a batch, of which each process along `tokens` has its own part."""
        size = len(x) * tokens.size
        mean = tokens.all_reduce(x.sum(dim=0)) / size
        shift = mean.double() - self.mean
        total = self.count + size
        within = tokens.all_reduce((x - mean).square().sum()).double()
        self.squares += within + shift.square().sum() * self.count * size / total
        self.mean += shift * size / total
        self.count = total

    def variance(self) -> float:
        """Return E‖x − μ‖²."""
        return float(self.squares / self.count)
