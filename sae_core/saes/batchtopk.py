"""BatchTopK: a batch keeps its k·B largest pre-activations (Bussmann et al. 2024, arXiv:2412.06410)."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sae_core import kernels
from sae_core.kernels import Selection
from sae_core.parallel import Grid
from sae_core.saes.jumprelu import JumpReLU, JumpReLUConfig
from sae_core.saes.topk import TopK, TopKConfig

THRESHOLD_MEMORY = 0.9
"""Share of the running threshold that a step keeps."""


class BatchTopK(TopK):
    """f = the k·B largest pre-activations of a batch of B tokens, where positive.

    A token alone has no batch, so inference compares with a threshold instead: the running mean of each training
    batch's smallest selected activation. The inference form is a `JumpReLU`.
    """

    architecture = "batchtopk"
    threshold: Float[Tensor, ""]
    """Running mean of the smallest selected activation; -1 before the first batch."""

    def __init__(self, config: TopKConfig) -> None:
        super().__init__(config)
        self.register_buffer("threshold", torch.tensor(-1.0))

    @classmethod
    def is_mean_over_tokens(cls, options: Mapping[str, Any]) -> bool:
        """Return False: selection and threshold are those of the whole batch."""
        return False

    def select(self, pre: Float[Tensor, "batch d_sae"], grid: Grid) -> Selection:
        """Select the largest entries of the batch over all processes."""
        count = self.config.k * len(pre) * grid.tokens.size
        return kernels.batch_topk(pre, count, (grid.tokens, grid.features))

    def observe(self, values: Float[Tensor, " active"], grid: Grid) -> None:
        """Move the threshold towards the smallest selected activation of the batch."""
        infinite = values.new_full((1,), torch.inf)
        smallest = torch.cat([torch.where(values > 0, values, torch.inf), infinite]).min().reshape(1)
        for axis in (grid.tokens, grid.features):
            smallest = axis.gather(smallest).min().reshape(1)
        moved = torch.where(self.threshold < 0, smallest[0], torch.lerp(smallest[0], self.threshold, THRESHOLD_MEMORY))
        self.threshold.copy_(torch.where(smallest[0].isfinite(), moved, self.threshold))

    @torch.no_grad()
    def for_inference(self) -> JumpReLU:
        """Return the JumpReLU that uses the learned threshold, with the scales folded in."""
        shared = {name: getattr(self.config, name) for name in ("d_in", "d_sae", "d_out", "skip", "k")}
        sae = JumpReLU(JumpReLUConfig(**shared)).to(self.W_enc).requires_grad_(False)
        for name, parameter in self.named_parameters():
            sae.get_parameter(name).copy_(parameter)
        sae.threshold.fill_(self.threshold)
        sae.input_scale.copy_(self.input_scale)
        sae.output_scale.copy_(self.output_scale)
        sae.fold_scales()
        sae.metadata = self.metadata
        return sae
