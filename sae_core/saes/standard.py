"""Standard: ReLU with an L1 penalty (Bricken et al. 2023, transformer-circuits.pub/2023/monosemantic-features)."""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from sae_core.saes.base import SAE, Losses, SAEConfig


@dataclass(frozen=True, kw_only=True)
class StandardConfig(SAEConfig):
    """Config of the standard SAE."""

    l1_coefficient: float = 1.0
    """λ, the price of one unit of activation, with activations scaled to a mean norm of √d_in."""


class Standard(SAE):
    """f = relu(pre); the loss is ‖x − x̂‖² + λ Σ f, which with unit decoder rows is λ Σ f ‖W_dec‖."""

    architecture = "standard"
    Config = StandardConfig
    config: StandardConfig

    def encode(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch d_sae"]:
        """Feature activations, ≥ 0."""
        return self.pre_activations(x).relu()

    def losses(self, x: Float[Tensor, "batch d_in"], dead: Int[Tensor, " dead"], sparsity_warmup: float) -> Losses:
        """Squared error plus λ Σ f, λ warmed up; dense, because L1 leaves hundreds of features active at first."""
        f = self.encode(x)
        mse = (x - self.decode(f)).square().sum(dim=1).mean()
        active = f > 0
        return Losses(
            total=mse + sparsity_warmup * self.config.l1_coefficient * f.sum(dim=1).mean(),
            mse=mse.detach(),
            l0=active.sum(dim=1, dtype=f.dtype).mean(),
            active=active.any(dim=0),
        )
