"""JumpReLU: a feature is active above a threshold of its own (Rajamanoharan et al. 2024, arXiv:2407.14435).

This is the inference form, which BatchTopK is saved as.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sae_core.saes.base import SAE, SAEConfig


class JumpReLU(SAE):
    """f = pre · 1[pre > threshold], where positive."""

    architecture = "jumprelu"
    threshold: Float[nn.Parameter, " d_sae"]
    """What a feature's pre-activation must exceed."""

    def __init__(self, config: SAEConfig) -> None:
        super().__init__(config)
        self.threshold = nn.Parameter(torch.zeros(config.d_sae))

    def encode(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch d_sae"]:
        """Feature activations, ≥ 0."""
        pre = self.pre_activations(x)
        return torch.where(pre > self.threshold.clamp(min=0), pre, 0)

    @torch.no_grad()
    def fold_input_scale(self) -> None:
        """Take activations in the model's own units from now on; the thresholds too are divided by the scale."""
        self.threshold.div_(self.input_scale)
        super().fold_input_scale()
