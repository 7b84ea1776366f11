"""TopK: each token keeps its k largest pre-activations (Gao et al. 2024, arXiv:2406.04093)."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_core import kernels
from sae_core.kernels import Selection
from sae_core.saes.base import SAE, Losses, SAEConfig


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

    @property
    def k(self) -> int:
        """Active features per token."""
        return self.config.k

    def select(self, pre: Float[Tensor, "batch d_sae"]) -> Selection:
        """The entries that stay active."""
        return kernels.topk(pre, self.k)

    def observe(self, values: Float[Tensor, " active"]) -> None:
        """Learn from a training batch's activations; TopK has nothing to learn from them."""

    def encode(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch d_sae"]:
        """Feature activations, ≥ 0."""
        pre = self.pre_activations(x)
        selection = self.select(pre.detach())
        return selection.dense(selection.values(pre))

    def losses(self, x: Float[Tensor, "batch d_in"], dead: Int[Tensor, " dead"], sparsity_warmup: float) -> Losses:
        """Gao et al.'s loss; the number of active features is set, so there is nothing to warm up."""
        with torch.no_grad():
            pre = self.pre_activations(x)
            selection = self.select(pre)
        values = kernels.active_values(pre, x, self.W_enc, self.b_enc, self.b_dec, selection)
        self.observe(values.detach())
        error = x - self.b_dec - kernels.decode(values, self.W_dec, selection)
        mse = error.square().sum(dim=1).mean()
        variance = (x - x.mean(dim=0)).square().sum(dim=1).mean()
        total = mse / variance
        if len(dead):
            total = total + self.config.aux_coefficient * self.auxk(x, error.detach(), dead)
        return Losses(
            total=total,
            mse=mse.detach(),
            l0=torch.tensor(len(selection.rows) / len(x), device=x.device),
            active=selection.active(),
        )

    def auxk(
        self, x: Float[Tensor, "batch d_in"], error: Float[Tensor, "batch d_in"], dead: Int[Tensor, " dead"]
    ) -> Float[Tensor, ""]:
        """AuxK = ‖e − ê‖² / ‖e‖²: dead features reconstruct what the living left over (Gao et al. 2024, A.2).

        e is the error, which already has `b_dec` taken out; ê is decoded without it from the k_aux largest dead
        pre-activations, k_aux = min(d_in / 2, dead).
        """
        pre = torch.addmm(self.b_enc[dead], x - self.b_dec.detach(), self.W_enc.t()[dead].t())
        largest = pre.topk(min(self.d_in // 2, len(dead)), dim=1, sorted=False)
        f = torch.zeros_like(pre).scatter(1, largest.indices, largest.values.relu())
        return (error - f @ self.W_dec[dead]).square().sum() / error.square().sum()
