"""What every sparse autoencoder (SAE) shares: parameters, start values, units, and the step's contract."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class SAEConfig:
    """What every architecture needs to know; each architecture's own config adds to it."""

    d_in: int
    """Width of the activations at the hook point."""
    d_sae: int
    """Number of features."""


@dataclass(frozen=True)
class Losses:
    """What one training step of an architecture gives."""

    total: Float[Tensor, ""]
    """What is minimised: reconstruction plus the architecture's own terms."""
    mse: Float[Tensor, ""]
    """Mean over tokens of ‖x − x̂‖², detached."""
    l0: Float[Tensor, ""]
    """Mean number of active features per token, detached."""
    active: Bool[Tensor, " d_sae"]
    """Features that were active on at least one token of the batch."""


class SAE(nn.Module):
    """A dictionary of `d_sae` features on the `d_in` activations of one hook point.

        pre = (x − b_dec) W_enc + b_enc        f = activation(pre) ≥ 0        x̂ = f W_dec + b_dec

    `W_enc` has the shape `[d_in, d_sae]` but is laid out by feature, as `W_dec` is: sparse kernels read and write one
    feature's direction as one run of memory.
    """

    architecture: ClassVar[str]
    """The name in `ARCHITECTURES` and on disk."""
    Config: ClassVar[type[SAEConfig]] = SAEConfig
    """The architecture's config."""

    W_enc: Float[nn.Parameter, "d_in d_sae"]
    b_enc: Float[nn.Parameter, " d_sae"]
    W_dec: Float[nn.Parameter, "d_sae d_in"]
    b_dec: Float[nn.Parameter, " d_in"]
    input_scale: Float[Tensor, ""]
    """While training, activations are multiplied by this before they are encoded; 1 in the inference form."""

    def __init__(self, config: SAEConfig) -> None:
        super().__init__()
        self.config = config
        self.W_enc = nn.Parameter(torch.zeros(config.d_sae, config.d_in).t())
        self.b_enc = nn.Parameter(torch.zeros(config.d_sae))
        self.W_dec = nn.Parameter(torch.zeros(config.d_sae, config.d_in))
        self.b_dec = nn.Parameter(torch.zeros(config.d_in))
        self.register_buffer("input_scale", torch.ones(()))

    @property
    def d_in(self) -> int:
        """Width of the activations."""
        return self.config.d_in

    @property
    def d_sae(self) -> int:
        """Number of features."""
        return self.config.d_sae

    @property
    def k(self) -> int | None:
        """Active features per token that training aimed at; None where the architecture sets no number."""
        return None

    def pre_activations(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch d_sae"]:
        """(x − b_dec) W_enc + b_enc."""
        return torch.addmm(self.b_enc, x - self.b_dec, self.W_enc)

    def encode(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch d_sae"]:
        """Feature activations, ≥ 0."""
        raise NotImplementedError

    def decode(self, f: Float[Tensor, "batch d_sae"]) -> Float[Tensor, "batch d_in"]:
        """f W_dec + b_dec."""
        return torch.addmm(self.b_dec, f, self.W_dec)

    def forward(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch d_in"]:
        """The reconstruction x̂."""
        return self.decode(self.encode(x))

    def losses(
        self, x: Float[Tensor, "batch d_in"], dead: Int[Tensor, " dead"], sparsity_warmup: float
    ) -> Losses:
        """One training step's losses on activations that are already scaled.

        Args:
            x: activations × `input_scale`.
            dead: numbers of the features that count as dead now.
            sparsity_warmup: 0 to 1, the share of the sparsity penalty that applies at this step.
        """
        raise NotImplementedError

    def for_inference(self) -> "SAE":
        """A copy that takes activations in the model's own units, in the form that is saved and indexed."""
        raise NotImplementedError

    def save(self, folder: Path, metadata: dict[str, Any]) -> None:
        """Write the inference form in SAELens' layout; see `sae_core.checkpoints.saelens.write`."""
        from sae_core.checkpoints import saelens

        saelens.write(self, folder, metadata)

    @classmethod
    def load(cls, folder: Path) -> "SAE":
        """Read an SAE of any architecture; see `sae_core.checkpoints.saelens.read`."""
        from sae_core.checkpoints import saelens

        return saelens.read(folder)
