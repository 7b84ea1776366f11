"""What every sparse autoencoder (SAE) shares: parameters, start values, units, and the step's contract."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

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

    @torch.no_grad()
    def initialise(self, sample: Float[Tensor, "tokens d_in"], seed: int) -> None:
        """Set the start values from a sample of activations in the model's own units.

        Decoder rows are random unit vectors, the encoder is their transpose, `b_dec` is the sample's geometric median,
        and the input scale gives the sample a mean norm of √d_in.
        """
        directions = torch.randn(self.d_sae, self.d_in, generator=torch.Generator().manual_seed(seed))
        self.W_dec.copy_(directions)
        self.normalise_decoder()
        self.W_enc.copy_(self.W_dec.t())
        self.b_enc.zero_()
        self.input_scale.copy_(self.d_in**0.5 / sample.norm(dim=1).mean())
        self.b_dec.copy_(geometric_median(sample * self.input_scale))

    @torch.no_grad()
    def normalise_decoder(self) -> None:
        """Give every decoder row unit norm."""
        self.W_dec.div_(torch.linalg.vector_norm(self.W_dec, dim=1, keepdim=True))

    @torch.no_grad()
    def remove_parallel_gradient(self) -> None:
        """Drop the part of each decoder row's gradient that would only change the row's norm, which is fixed."""
        if self.W_dec.grad is not None:
            along = torch.linalg.vecdot(self.W_dec.grad, self.W_dec)[:, None]
            self.W_dec.grad.addcmul_(along, self.W_dec, value=-1)

    @torch.no_grad()
    def fold_input_scale(self) -> None:
        """Take activations in the model's own units from now on.

        With y = s·x, every activation function here satisfies act(s·pre) = s·act(pre), so dividing the biases by s
        (and a threshold, in the architectures that have one) gives f / s and x̂ / s; decoder rows keep their norm.
        """
        self.b_enc.div_(self.input_scale)
        self.b_dec.div_(self.input_scale)
        self.input_scale.fill_(1)

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

    def losses(self, x: Float[Tensor, "batch d_in"], dead: Int[Tensor, " dead"], sparsity_warmup: float) -> Losses:
        """One training step's losses on activations that are already scaled.

        Args:
            x: activations × `input_scale`.
            dead: numbers of the features that count as dead now.
            sparsity_warmup: 0 to 1, the share of the sparsity penalty that applies at this step.
        """
        raise NotImplementedError

    def for_inference(self) -> "SAE":
        """A copy that takes activations in the model's own units, in the form that is saved and indexed.

        Its parameters want no gradient, so that encoding keeps no graph.
        """
        sae = copy.deepcopy(self).requires_grad_(False)
        sae.fold_input_scale()
        return sae

    def save(self, folder: Path, metadata: dict[str, Any]) -> None:
        """Write the inference form in SAELens' layout; see `sae_core.checkpoints.saelens.write`."""
        from sae_core.checkpoints import saelens

        saelens.write(self, folder, metadata)

    @classmethod
    def load(cls, folder: Path) -> "SAE":
        """Read an SAE of any architecture; see `sae_core.checkpoints.saelens.read`."""
        from sae_core.checkpoints import saelens

        return saelens.read(folder)


def geometric_median(
    points: Float[Tensor, "points d_in"], *, iterations: int = 50, tolerance: float = 1e-5
) -> Float[Tensor, " d_in"]:
    """The point with the least mean distance to all others, by Weiszfeld's algorithm.

    Unlike the mean it is not dragged by the few tokens whose activations are many times larger than the rest.
    """
    median = points.mean(dim=0)
    for _ in range(iterations):
        distances = torch.linalg.vector_norm(points - median, dim=1).clamp(min=torch.finfo(points.dtype).tiny)
        weights = (1 / distances) / (1 / distances).sum()
        previous, median = median, weights @ points
        if torch.linalg.vector_norm(median - previous) <= tolerance * torch.linalg.vector_norm(median):
            break
    return median
