"""Standard: ReLU with an L1 penalty (Bricken et al. 2023, transformer-circuits.pub/2023/monosemantic-features)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from sae_core.saes.base import SAE
from sae_core.saes.batch import Batch, Losses
from sae_core.saes.config import SAEConfig


@dataclass(frozen=True, kw_only=True)
class StandardConfig(SAEConfig):
    """Config of the standard SAE."""

    l1_coefficient: float = 1.55
    """λ, the price of one unit of activation, with activations scaled to a mean norm of √d_in. Training sets it unless
    it is given, and begins with this: on SmolLM2's layer 9 (4,096 features, 245 steps) it leaves 32 features active."""


class Standard(SAE):
    """f = relu(pre); the loss is ‖x − x̂‖² + λ Σ f, which with unit decoder rows is λ Σ f ‖W_dec‖."""

    architecture = "standard"
    is_dense = True
    Config = StandardConfig
    config: StandardConfig

    def activate(self, pre: Float[Tensor, "batch d_sae"]) -> Float[Tensor, "batch d_sae"]:
        """Return relu(pre)."""
        return pre.relu()

    @classmethod
    def is_mean_over_tokens(cls, options: Mapping[str, Any]) -> bool:
        """Return True."""
        return True

    def losses(self, batch: Batch) -> Losses:
        """Return squared error plus λ Σ f at this step's λ. Dense, because at first hundreds of features are active."""
        features = batch.grid.features
        f = self.activate(self.pre_activations(batch.x, features))
        mse = batch.mean((batch.target - self.reconstruct(f, batch.x, features)).square().sum(dim=1))
        l1 = features.all_reduce(batch.mean(f.sum(dim=1)))
        active = f.detach() > 0
        return Losses(
            total=mse + batch.sparsity * self.config.l1_coefficient * l1,
            mse=mse.detach(),
            l0=features.all_reduce(batch.mean(active.sum(dim=1, dtype=f.dtype))),
            active=active.any(dim=0),
        )
