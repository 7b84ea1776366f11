"""Gated: one path opens a feature, another sets its strength (Rajamanoharan et al. 2024a, arXiv:2404.16014)."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sae_core.saes.base import SAE
from sae_core.saes.batch import Batch, Losses
from sae_core.saes.config import SAEConfig
from sae_core.saes.jumprelu import JumpReLU, JumpReLUConfig


@dataclass(frozen=True, kw_only=True)
class GatedConfig(SAEConfig):
    """Config of the gated SAE."""

    l1_coefficient: float = 2.6
    """λ, the price of one unit of gate, with activations scaled to a mean norm of √d_in. Training sets it unless it is
    given, and begins with this: on SmolLM2's layer 9 (4,096 features, 245 steps) it leaves 32 features active."""


class Gated(SAE):
    """f = 1[π > 0] · relu((π − b_enc) exp(r_mag) + b_mag), where the gate is π = (x − b_dec) W_enc + b_enc.

    The loss is ‖x − x̂‖² + λ Σ relu(π) + ‖x − x̂_gate‖², where x̂_gate is decoded from relu(π) by a decoder that gets
    no gradient: the penalty shrinks the gate, and not the activations.

    The two paths share their directions, so the inference form is the `JumpReLU` whose encoder is the magnitude's and
    whose threshold is where the gate opens (the paper's appendix E).
    """

    architecture = "gated"
    is_dense = True
    Config = GatedConfig
    config: GatedConfig
    b_mag: Float[nn.Parameter, " d_sae"]
    """Bias of the magnitude; `b_enc` is the gate's."""
    r_mag: Float[nn.Parameter, " d_sae"]
    """Log of how much larger the magnitude's encoder is than the gate's."""

    def __init__(self, config: GatedConfig) -> None:
        super().__init__(config)
        self.b_mag = nn.Parameter(torch.zeros(config.d_sae))
        self.r_mag = nn.Parameter(torch.zeros(config.d_sae))

    def activate(self, pre: Float[Tensor, "batch d_sae"]) -> Float[Tensor, "batch d_sae"]:
        """Return the magnitude where the gate, `pre`, is open."""
        magnitude = ((pre - self.b_enc) * self.r_mag.exp() + self.b_mag).relu()
        return torch.where(pre > 0, magnitude, 0)

    @classmethod
    def is_mean_over_tokens(cls, options: Mapping[str, Any]) -> bool:
        """Return True."""
        return True

    def losses(self, batch: Batch) -> Losses:
        """Return squared error, plus the penalty on the gate, plus the gate's own squared error."""
        features = batch.grid.features
        gate = self.pre_activations(batch.x, features)
        f, opening = self.activate(gate), gate.relu()
        mse = batch.mean((batch.target - self.reconstruct(f, batch.x, features)).square().sum(dim=1))
        skipped = self.skipped(batch.x)
        frozen = features.all_reduce((opening @ self.W_dec.detach()).to(opening.dtype)) + self.b_dec.detach()
        gate_error = batch.target - frozen - (skipped if isinstance(skipped, float) else skipped.detach())
        l1 = features.all_reduce(batch.mean(opening.sum(dim=1)))
        active = f.detach() > 0
        return Losses(
            total=mse + batch.sparsity * self.config.l1_coefficient * l1 + batch.mean(gate_error.square().sum(dim=1)),
            mse=mse.detach(),
            l0=features.all_reduce(batch.mean(active.sum(dim=1, dtype=f.dtype))),
            active=active.any(dim=0),
        )

    def in_output_units(self) -> tuple[str, ...]:
        """Return the names of the parameters in units of the reconstruction."""
        return (*super().in_output_units(), "b_mag")

    @torch.no_grad()
    def for_inference(self) -> JumpReLU:
        """Return the JumpReLU that computes the same, with the scales folded in.

        The gate opens where the magnitude's pre-activation exceeds b_mag − exp(r_mag) b_enc.
        """
        gated = super().for_inference()
        assert isinstance(gated, Gated)
        base = {name: value for name, value in asdict(self.config).items() if name != "l1_coefficient"}
        sae = JumpReLU(JumpReLUConfig(**base)).to(self.W_enc).requires_grad_(False)
        stretch = gated.r_mag.exp()
        sae.W_enc.copy_(gated.W_enc * stretch)
        sae.b_enc.copy_(gated.b_mag)
        sae.threshold.copy_(gated.b_mag - stretch * gated.b_enc)
        for name in ("W_dec", "b_dec", "W_skip"):
            if getattr(self, name) is not None:
                sae.get_parameter(name).copy_(getattr(gated, name))
        sae.metadata = self.metadata
        return sae
