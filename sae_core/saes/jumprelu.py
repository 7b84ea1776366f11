"""JumpReLU: a feature is active above a threshold of its own (Rajamanoharan et al. 2024b, arXiv:2407.14435).

It is also the inference form of BatchTopK, Matryoshka BatchTopK and Gated.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from sae_core import kernels
from sae_core.errors import SAEError
from sae_core.kernels import Selection
from sae_core.parallel import SINGLE_PROCESS, Axis
from sae_core.saes.auxk import auxk
from sae_core.saes.base import SAE
from sae_core.saes.batch import Batch, Losses
from sae_core.saes.config import SAEConfig

START_TOKENS = 1024
"""Tokens of the sample that the start threshold is taken from."""


@dataclass(frozen=True, kw_only=True)
class JumpReLUConfig(SAEConfig):
    """Config of JumpReLU."""

    k: int | None = None
    """Active features per token that training aims at, on average; None in an SAE that is not to be trained."""
    l0_coefficient: float = 10.0
    """λ of the penalty λ (L0 / k − 1)², beside a reconstruction loss that is 1 where only the mean is predicted."""
    bandwidth: float = 1.0
    """Width of the window around a threshold in which a pre-activation gives it a gradient, as a share of the
    threshold; below 2."""
    aux_coefficient: float = 1 / 32
    """Weight of AuxK, the loss that revives dead features."""


class JumpReLU(SAE):
    """f = pre · 1[pre > threshold], where positive.

    The loss is mean squared error over the activations' variance, plus λ (L0 / k − 1)², plus AuxK. A step function has
    no gradient, so thresholds get the paper's straight-through estimate of the expected one: that of a step smeared
    over a window. The paper's window has one width for all; here it is a share of the threshold, so that it suits any
    scale, and ends above zero: only the few entries that are active or nearly active have to be read.
    """

    architecture = "jumprelu"
    Config = JumpReLUConfig
    config: JumpReLUConfig
    lr_factors: ClassVar[Mapping[str, float]] = {"threshold": 10.0}
    """Adam moves a parameter by about one learning rate per step at most, and thresholds have far to go."""
    threshold: Float[nn.Parameter, " d_sae"]
    """Threshold that a feature's pre-activation must exceed to be active."""

    def __init__(self, config: JumpReLUConfig) -> None:
        super().__init__(config)
        if not 0 < config.bandwidth < 2:
            raise SAEError(f"bandwidth is {config.bandwidth}. Give a share of the threshold between 0 and 2.")
        self.threshold = nn.Parameter(torch.zeros(config.d_sae))

    @torch.no_grad()
    def initialise(
        self,
        sample: Float[Tensor, "tokens d_in"],
        seed: int,
        *,
        target: Float[Tensor, "tokens d_out"] | None = None,
        features: Axis = SINGLE_PROCESS.features,
    ) -> None:
        """Set the shared start values, and for all features the one threshold that gives the sample an L0 of k.

        The paper starts near zero and lets some ten thousand steps raise the thresholds; a run of some hundred steps
        has no time for that.
        """
        super().initialise(sample, seed, target=target, features=features)
        assert self.config.k is not None, "an SAE that is trained has a k"
        pre = self.pre_activations(sample[:START_TOKENS] * self.input_scale)
        largest = kernels.batch_topk(pre, self.config.k * len(pre), (features,)).values(pre)
        values = largest[largest > 0]
        smallest = -features.gather(-values.min().reshape(1)).max() if len(values) else pre.new_zeros(())
        self.threshold.fill_(smallest)

    @torch.no_grad()
    def calibrate(self, sample: Float[Tensor, "tokens d_in"]) -> None:
        """Multiply the inference form's thresholds by the one factor that gives the sample an L0 of k.

        The factor is 1 − bandwidth / 2 at least.

        The loss holds each batch near k, but Adam moves all thresholds together, so that L0 goes up and down around k
        until the learning rate is 0, and stays where it then is.
        """
        assert self.config.k is not None, "an SAE that is trained has a k"
        threshold = self.threshold.clamp(min=0)
        ratios = []
        for x in torch.split(sample, START_TOKENS):
            pre = self._pre_activations(x)
            near = kernels.above(pre, threshold * (1 - self.config.bandwidth / 2))
            ratios.append(near.values(pre) / threshold[near.features])
        ratio = torch.cat(ratios)
        active = min(self.config.k * len(sample), len(ratio))
        factor = ratio.topk(active).values[-1] if active else ratio.new_tensor(torch.inf)
        if factor.isfinite():  # else features without a threshold are as many
            self.threshold.mul_(factor)

    def activate(self, pre: Float[Tensor, "batch d_sae"]) -> Float[Tensor, "batch d_sae"]:
        """Return `pre` where it is positive and above the threshold, and zero elsewhere."""
        return torch.where(pre > self.threshold.clamp(min=0), pre, 0)

    def activate_sparse(self, pre: Float[Tensor, "batch d_sae"]) -> tuple[Selection, Float[Tensor, " active"]]:
        """Return the non-zero entries of `activate` and their values."""
        active = kernels.above(pre, self.threshold)
        return active, active.values(pre)

    def losses(self, batch: Batch) -> Losses:
        """Return squared error over variance, plus the step's penalty on L0, plus AuxK."""
        config, features = self.config, batch.grid.features
        assert config.k is not None, "an SAE that is trained has a k"
        threshold = self.threshold.clamp(min=0)
        with torch.no_grad():
            pre = self.pre_activations(batch.x, features)
            near = kernels.above(pre, threshold * (1 - config.bandwidth / 2))
        values = kernels.active_values(pre, batch.x, self.W_enc, self.b_enc, self.centre(features), near)
        f, is_active = _Jump.apply(values, threshold[near.features], config.bandwidth)  # type: ignore[no-untyped-call]
        decoded = features.all_reduce(kernels.decode(f, self.W_dec, near))
        error = batch.target - self.b_dec - self.skipped(batch.x) - decoded
        mse = batch.mean(error.square().sum(dim=1))
        l0 = features.all_reduce(batch.mean(is_active))
        return Losses(
            total=mse / batch.variance
            + batch.sparsity * config.l0_coefficient * (l0 / config.k - 1).square()
            + config.aux_coefficient * auxk(self, batch, error.detach()),
            mse=mse.detach(),
            l0=l0.detach(),
            active=near.active(f.detach()),
        )

    def in_output_units(self) -> tuple[str, ...]:
        """Return the names of the parameters in units of the reconstruction."""
        return (*super().in_output_units(), "threshold")


class _Jump(torch.autograd.Function):
    """f = v · H(v − θ) and H(v − θ) of single entries, with the paper's gradients (eq. 11, 12).

    With K(z) = 1[|z| < 1/2] and window ε = bandwidth · θ:
    ∂f/∂v = H, ∂f/∂θ = −(θ/ε) K((v − θ)/ε), ∂H/∂θ = −(1/ε) K((v − θ)/ε).
    """

    @staticmethod
    def forward(
        ctx: Any, value: Float[Tensor, " near"], threshold: Float[Tensor, " near"], bandwidth: float
    ) -> tuple[Float[Tensor, " near"], Float[Tensor, " near"]]:
        is_active = (value > threshold).to(value.dtype)
        ctx.save_for_backward(value, threshold, is_active)
        ctx.bandwidth = bandwidth
        return value * is_active, is_active

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_f: Tensor, of_active: Tensor) -> tuple[Tensor, Tensor, None]:
        value, threshold, is_active = ctx.saved_tensors
        window = ctx.bandwidth * threshold
        in_window = (value - threshold).abs() < window / 2
        of_threshold = torch.where(in_window, -(of_f * threshold + of_active) / window, 0)
        return of_f * is_active, of_threshold, None
