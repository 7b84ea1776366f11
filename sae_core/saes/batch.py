"""Input and result of one training step."""

from dataclasses import dataclass
from typing import Any, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from sae_core.parallel import SINGLE_PROCESS, Axis, Grid


@dataclass(frozen=True)
class Batch:
    """Input of one training step, in the SAE's scaled units."""

    x: Float[Tensor, "batch d_in"]
    """Activations × `input_scale`."""
    target: Float[Tensor, "batch d_out"]
    """Activations to reconstruct × `output_scale`; an autoencoder's is `x`."""
    variance: Float[Tensor, ""]
    """Mean over all tokens of the step of ‖target − mean‖²."""
    dead: Int[Tensor, " dead"]
    """Indices of the features that count as dead now."""
    sparsity: float | Float[Tensor, ""] = 1.0
    """Factor on the sparsity penalty at this step."""
    grid: Grid = SINGLE_PROCESS
    """The processes that share the step."""

    @classmethod
    def of(cls, x: Float[Tensor, "batch d_in"], target: Tensor | None = None, **options: Any) -> Self:
        """Return a whole batch, which computes its own variance; without a target the input is the target."""
        target = x if target is None else target
        options.setdefault("dead", torch.empty(0, dtype=torch.int64, device=x.device))
        return cls(x, target, variance_of(target, options.get("grid", SINGLE_PROCESS).tokens), **options)

    def mean(self, per_token: Float[Tensor, " _"]) -> Float[Tensor, ""]:
        """Return the mean over the tokens of all processes; of single entries, the mean of their sum per token."""
        return self.grid.tokens.all_reduce(per_token.sum()) / (len(self.x) * self.grid.tokens.size)


@dataclass(frozen=True)
class Losses:
    """Result of one training step; the numbers are those of all processes together."""

    total: Float[Tensor, ""]
    """The loss to minimise: reconstruction plus the architecture's own terms."""
    mse: Float[Tensor, ""]
    """Mean over tokens of ‖target − reconstruction‖², detached."""
    l0: Float[Tensor, ""]
    """Mean number of active features per token, detached."""
    active: Bool[Tensor, " d_sae"]
    """Features that were active on at least one token of this process' part of the batch."""


def variance_of(target: Float[Tensor, "batch d_out"], tokens: Axis = SINGLE_PROCESS.tokens) -> Float[Tensor, ""]:
    """Return the mean over the tokens of all processes of ‖target − mean‖²."""
    count = len(target) * tokens.size
    mean = tokens.all_reduce(target.sum(dim=0)) / count
    return tokens.all_reduce((target - mean).square().sum()) / count
