"""TopK: each token keeps its k largest pre-activations (Gao et al. 2024, arXiv:2406.04093)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sae_core import kernels
from sae_core.devices import answers_at_once
from sae_core.kernels import Selection
from sae_core.parallel import SINGLE_PROCESS, Grid
from sae_core.saes.auxk import auxk
from sae_core.saes.base import SAE
from sae_core.saes.batch import Batch, Losses
from sae_core.saes.config import SAEConfig


@dataclass(frozen=True, kw_only=True)
class TopKConfig(SAEConfig):
    """Config of TopK, and of BatchTopK."""

    k: int = 32
    """Active features per token."""
    aux_coefficient: float = 1 / 32
    """Weight of AuxK, the loss that revives dead features."""


class TopK(SAE):
    """f = the k largest pre-activations of a token, where positive.

    The loss is Gao et al.'s: mean squared error over the activations' variance, plus AuxK.
    """

    architecture = "topk"
    Config = TopKConfig
    config: TopKConfig

    @classmethod
    def is_mean_over_tokens(cls, options: Mapping[str, Any]) -> bool:
        """Return True without AuxK, which is a share of the whole batch's error."""
        return options.get("aux_coefficient") == 0

    def select(self, pre: Float[Tensor, "batch d_sae"], grid: Grid) -> Selection:
        """Select the entries that stay active; in a width-sharded dictionary, those of this process."""
        return kernels.topk(pre, self.config.k, grid.features)

    def observe(self, values: Float[Tensor, " active"], grid: Grid) -> None:
        """Update state from a training batch's activations; TopK has none."""

    def activate(self, pre: Float[Tensor, "batch d_sae"]) -> Float[Tensor, "batch d_sae"]:
        """Return the selected pre-activations, and zero elsewhere."""
        selection, values = self.activate_sparse(pre)
        return selection.dense(values)

    def activate_sparse(self, pre: Float[Tensor, "batch d_sae"]) -> tuple[Selection, Float[Tensor, " active"]]:
        """Return the non-zero entries of `activate` and their values."""
        selection = self.select(pre.detach(), SINGLE_PROCESS)
        values = selection.values(pre)
        return (selection, values) if answers_at_once(pre) else selection.positive(values)

    def losses(self, batch: Batch) -> Losses:
        """Return Gao et al.'s loss; it has no sparsity penalty to warm up."""
        grid = batch.grid
        with torch.no_grad():
            pre = self.pre_activations(batch.x, grid.features)
            selection = self.select(pre, grid)
        values = kernels.active_values(
            pre, batch.x, self.W_enc, self.b_enc, self.centre(grid.features), selection
        ).relu()
        self.observe(values.detach(), grid)
        decoded = grid.features.all_reduce(self.decode_prefixes(values, selection, grid))
        errors = batch.target - self.b_dec - self.skipped(batch.x) - decoded
        squares = errors.square().sum(dim=2)
        return Losses(
            total=batch.mean(squares.mean(dim=0)) / batch.variance
            + self.config.aux_coefficient * auxk(self, batch, errors[-1].detach()),
            mse=batch.mean(squares[-1].detach()),
            l0=grid.features.all_reduce(batch.mean((values.detach() > 0).to(pre.dtype))),
            active=selection.active(values.detach()),
        )

    def decode_prefixes(
        self, values: Float[Tensor, " active"], selection: Selection, grid: Grid
    ) -> Float[Tensor, "prefix batch d_out"]:
        """Decode by each prefix of the dictionary that enters the loss, without `b_dec`; the last is the whole."""
        return kernels.decode(values, self.W_dec, selection)[None]
