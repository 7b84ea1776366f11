"""What every sparse autoencoder (SAE) shares: parameters, start values, units, and the step's contract."""

import copy
import html
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from sae_core import kernels
from sae_core.errors import SAEError
from sae_core.kernels import Selection
from sae_core.parallel import SINGLE_PROCESS, Axis, Grid
from sae_core.saes.normalisation import NORMALISATIONS, token_moments


@dataclass(frozen=True, kw_only=True)
class SAEConfig:
    """What every architecture needs to know; each architecture's own config adds to it."""

    d_in: int
    """Width of the activations that are read."""
    d_sae: int
    """Number of features."""
    d_out: int | None = None
    """Width of what a transcoder reconstructs; None for an autoencoder, which reconstructs its input."""
    skip: bool = False
    """Whether a transcoder adds x W_skip to its reconstruction (Paulo et al. 2025, arXiv:2501.18823)."""
    apply_b_dec_to_input: bool = True
    """Whether an autoencoder takes `b_dec` off its input before it encodes; a transcoder never does."""
    normalize_activations: str = "none"
    """What is done to each token first: a name in `sae_core.saes.normalisation`. Training never sets it."""


@dataclass(frozen=True)
class Batch:
    """What one training step learns from, in the SAE's scaled units."""

    x: Float[Tensor, "batch d_in"]
    """Activations × `input_scale`."""
    target: Float[Tensor, "batch d_out"]
    """What is to be reconstructed, × `output_scale`: an autoencoder's `x`."""
    variance: Float[Tensor, ""]
    """Mean over all tokens of the step of ‖target − mean‖²."""
    dead: Int[Tensor, " dead"]
    """Numbers of the features that count as dead now."""
    sparsity_warmup: float = 1.0
    """0 to 1, the share of a sparsity penalty that applies at this step."""
    grid: Grid = SINGLE_PROCESS
    """The processes that share the step."""

    @classmethod
    def of(cls, x: Float[Tensor, "batch d_in"], target: Tensor | None = None, **options: Any) -> Self:
        """A batch of its own variance; without a target the input is the target."""
        target = x if target is None else target
        options.setdefault("dead", torch.empty(0, dtype=torch.int64, device=x.device))
        return cls(x, target, variance_of(target, options.get("grid", SINGLE_PROCESS).tokens), **options)

    def mean(self, per_token: Float[Tensor, " _"]) -> Float[Tensor, ""]:
        """The mean over the tokens of all processes; of entries of tokens, the mean of their sum a token."""
        return self.grid.tokens.all_reduce(per_token.sum()) / (len(self.x) * self.grid.tokens.size)


@dataclass(frozen=True)
class Losses:
    """What one training step of an architecture gives; the numbers are those of all processes together."""

    total: Float[Tensor, ""]
    """What is minimised: reconstruction plus the architecture's own terms."""
    mse: Float[Tensor, ""]
    """Mean over tokens of ‖target − reconstruction‖², detached."""
    l0: Float[Tensor, ""]
    """Mean number of active features per token, detached."""
    active: Bool[Tensor, " d_sae"]
    """Features that were active on at least one token of this process' part of the batch."""


class SAE(nn.Module):
    """A dictionary of `d_sae` features on the `d_in` activations of one hook point.

        pre = (x − b_dec) W_enc + b_enc        f = activate(pre) ≥ 0        x̂ = f W_dec + b_dec

    A transcoder reads one hook point and reconstructs another: pre = x W_enc + b_enc, ŷ = f W_dec + b_dec (+ x W_skip).

    `W_enc` has the shape `[d_in, d_sae]` but is laid out by feature, as `W_dec` is: sparse kernels read and write one
    feature's direction as one run of memory.
    """

    architecture: ClassVar[str]
    """The name in `ARCHITECTURES` and on disk."""
    Config: ClassVar[type[SAEConfig]] = SAEConfig
    """The architecture's config."""
    replicated: ClassVar[frozenset[str]] = frozenset({"b_dec", "W_skip"})
    """Parameters without a dimension for features: every process of a width-sharded dictionary holds the whole."""

    lr_factors: ClassVar[Mapping[str, float]] = {}
    """What the learning rate is multiplied by for some parameters; 1 for the others."""
    is_dense: ClassVar[bool] = False
    """Whether a step computes with all features, and not with the active ones alone; then `torch.compile` pays."""

    W_enc: Float[nn.Parameter, "d_in d_sae"]
    b_enc: Float[nn.Parameter, " d_sae"]
    W_dec: Float[nn.Parameter, "d_sae d_out"]
    b_dec: Float[nn.Parameter, " d_out"]
    W_skip: Float[nn.Parameter, "d_in d_out"] | None
    input_scale: Float[Tensor, ""]
    """While training, activations are multiplied by this before they are encoded; 1 in the inference form."""
    output_scale: Float[Tensor, ""]
    """The same of what is reconstructed; an autoencoder's is its input scale."""
    metadata: Mapping[str, Any]
    """What is known of the SAE's origin: `model_name`, `hook_name` and more, as SAELens names them."""

    def __init__(self, config: SAEConfig) -> None:
        super().__init__()
        if config.skip and config.d_out is None:
            raise SAEError("A skip connection is for transcoders: an autoencoder could pass its input through it.")
        if config.normalize_activations not in NORMALISATIONS:
            raise SAEError(
                f"Activations cannot be normalised by {config.normalize_activations!r}. "
                f"Give one of {', '.join(NORMALISATIONS)}."
            )
        self.config = config
        self.metadata = {}
        self.W_enc = nn.Parameter(torch.zeros(config.d_sae, config.d_in).t())
        self.b_enc = nn.Parameter(torch.zeros(config.d_sae))
        self.W_dec = nn.Parameter(torch.zeros(config.d_sae, self.d_out))
        self.b_dec = nn.Parameter(torch.zeros(self.d_out))
        self.W_skip = nn.Parameter(torch.zeros(config.d_in, self.d_out)) if config.skip else None
        self.register_buffer("input_scale", torch.ones(()))
        self.register_buffer("output_scale", torch.ones(()))

    # What it is

    @property
    def d_in(self) -> int:
        """Width of the activations that are read."""
        return self.config.d_in

    @property
    def d_out(self) -> int:
        """Width of the activations that are reconstructed."""
        return self.config.d_in if self.config.d_out is None else self.config.d_out

    @property
    def d_sae(self) -> int:
        """Number of features."""
        return self.config.d_sae

    @property
    def k(self) -> int | None:
        """Active features per token that training aimed at; None where the architecture sets no number."""
        return getattr(self.config, "k", None)

    @property
    def is_transcoder(self) -> bool:
        """Whether it reconstructs another hook point than it reads."""
        return self.config.d_out is not None

    @property
    def _centres_input(self) -> bool:
        return self.config.apply_b_dec_to_input and not self.is_transcoder

    # Inference

    def encode(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_sae"]:
        """Feature activations, ≥ 0, of activations in the model's own units."""
        return self.activate(self._pre_activations(x)).reshape(*x.shape[:-1], self.d_sae)

    def encode_sparse(self, x: Float[Tensor, "token d_in"]) -> tuple[Selection, Float[Tensor, " active"]]:
        """`encode`, as the entries that are not zero and their values: no dense matrix is made but pre-activations."""
        return self.activate_sparse(self._pre_activations(x))

    def decode(
        self, f: Float[Tensor, "... d_sae"], x: Float[Tensor, "... d_in"] | None = None
    ) -> Float[Tensor, "... d_out"]:
        """The reconstruction f W_dec + b_dec.

        Args:
            f: feature activations.
            x: what they were encoded from, without which an SAE that normalises each token or has a skip connection
                cannot tell its output.

        Raises:
            SAEError: such an SAE got no `x`.
        """
        if x is None:
            if self.W_skip is not None or self.config.normalize_activations != "none":
                raise SAEError("This SAE's output depends on its input too. Give decode both: sae.decode(f, x).")
            return f @ self.W_dec + self.b_dec
        moments = token_moments(self.config.normalize_activations, self._rows(x))
        rows = f.reshape(-1, self.d_sae) @ self.W_dec + self.b_dec + self.skipped(moments.apply(self._rows(x)))
        return moments.undo(rows).reshape(*x.shape[:-1], self.d_out)

    def forward(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_out"]:
        """The reconstruction of activations in the model's own units."""
        return self.decode(self.encode(x), x)

    def _pre_activations(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "token d_sae"]:
        """Of activations in the model's own units."""
        rows = self._rows(x)
        return self.pre_activations(token_moments(self.config.normalize_activations, rows).apply(rows))

    def _rows(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "token d_in"]:
        if x.shape[-1] != self.d_in:
            raise SAEError(f"The SAE reads {self.d_in} dimensions, not {x.shape[-1]}: is this its hook point?")
        return x.reshape(-1, self.d_in)

    # The architecture's maths

    def pre_activations(
        self, x: Float[Tensor, "batch d_in"], features: Axis = SINGLE_PROCESS.features
    ) -> Float[Tensor, "batch d_sae"]:
        """(x − b_dec) W_enc + b_enc, without b_dec in a transcoder; in the parameters' precision under autocast too."""
        centre = self.centre(features)
        pre = torch.addmm(self.b_enc, x if centre is None else x - centre, self.W_enc)
        return pre.to(self.b_enc.dtype)

    def centre(self, features: Axis = SINGLE_PROCESS.features) -> Float[Tensor, " d_in"] | None:
        """What is taken off the input before it is encoded."""
        return features.copy_to(self.b_dec) if self._centres_input else None

    def activate(self, pre: Float[Tensor, "batch d_sae"]) -> Float[Tensor, "batch d_sae"]:
        """Feature activations, ≥ 0, from pre-activations."""
        raise NotImplementedError

    def activate_sparse(self, pre: Float[Tensor, "batch d_sae"]) -> tuple[Selection, Float[Tensor, " active"]]:
        """`activate`, as the entries that are not zero and their values."""
        f = self.activate(pre)
        active = kernels.above(f, f.new_zeros(self.d_sae))
        return active, active.values(f)

    def skipped(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch d_out"] | float:
        """What the skip connection adds to the reconstruction: x W_skip, or 0."""
        return 0.0 if self.W_skip is None else x @ self.W_skip

    def reconstruct(
        self, f: Float[Tensor, "batch d_sae"], x: Float[Tensor, "batch d_in"], features: Axis
    ) -> Float[Tensor, "batch d_out"]:
        """While training: f W_dec + b_dec (+ x W_skip), over all shards of the dictionary."""
        return features.all_reduce((f @ self.W_dec).to(self.b_dec.dtype)) + self.b_dec + self.skipped(x)

    def losses(self, batch: Batch) -> Losses:
        """One training step's losses."""
        raise NotImplementedError

    # Training

    @torch.no_grad()
    def initialise(
        self,
        sample: Float[Tensor, "tokens d_in"],
        seed: int,
        *,
        target: Float[Tensor, "tokens d_out"] | None = None,
        features: Axis = SINGLE_PROCESS.features,
    ) -> None:
        """Set the start values from a sample of activations in the model's own units.

        Decoder rows are random unit vectors; an autoencoder's encoder is their transpose, a transcoder's are others,
        with a `b_enc` that takes off what the input's geometric median gives: else the few directions near it would be
        active on every token, and the others dead. `b_dec` is the target's geometric median, and the scales give input
        and target a mean norm of the square root of their width. The start values do not depend on how many processes
        share the features.
        """
        target = sample if target is None else target
        generator = torch.Generator().manual_seed(seed)
        self.W_dec.copy_(self._directions(self.d_out, generator, features))
        self.W_enc.copy_((self._directions(self.d_in, generator, features) if self.is_transcoder else self.W_dec).t())
        self.b_enc.zero_()
        self.input_scale.copy_(self.d_in**0.5 / sample.norm(dim=1).mean())
        self.output_scale.copy_(self.d_out**0.5 / target.norm(dim=1).mean())
        self.b_dec.copy_(geometric_median(target * self.output_scale))
        if self.is_transcoder:
            self.b_enc.copy_(-geometric_median(sample * self.input_scale) @ self.W_enc)

    def _directions(self, width: int, generator: torch.Generator, features: Axis) -> Float[Tensor, "d_sae width"]:
        total = self.d_sae * features.size
        directions = torch.randn(total, width, generator=generator)[features.part(total)].to(self.W_dec)
        return directions.div_(torch.linalg.vector_norm(directions, dim=1, keepdim=True))

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
    def fold_scales(self) -> None:
        """Take and give activations in the model's own units from now on.

        With input scale s and output scale t, every activation function here satisfies act(t·pre) = t·act(pre), where
        a threshold, if there is one, is scaled too. So multiplying the encoder by s / t and dividing what is added in
        scaled units by t gives f / t and the reconstruction / t; decoder rows keep their norm.
        """
        self.W_enc.mul_(self.input_scale / self.output_scale)
        if self.W_skip is not None:
            self.W_skip.mul_(self.input_scale / self.output_scale)
        for name in self.in_output_units():
            self.get_parameter(name).div_(self.output_scale)
        self.input_scale.fill_(1)
        self.output_scale.fill_(1)

    def in_output_units(self) -> tuple[str, ...]:
        """Names of the parameters that are measured in units of the reconstruction."""
        return ("b_enc", "b_dec")

    # On disk and on screen

    def for_inference(self) -> "SAE":
        """A copy that takes activations in the model's own units, in the form that is saved and indexed.

        Its parameters want no gradient, so that encoding keeps no graph.
        """
        sae = copy.deepcopy(self).requires_grad_(False)
        sae.fold_scales()
        return sae

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value}' for name, value in self._facts().items())})"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name)}</th>"
            f"<td style='text-align:left'>{html.escape(str(value))}</td></tr>"
            for name, value in self._facts().items()
        )
        kind = "transcoder" if self.is_transcoder else "sparse autoencoder"
        return f"<table><caption>{self.architecture} {kind}</caption>{rows}</table>"

    def _facts(self) -> dict[str, Any]:
        """What a person wants to know of an SAE at a glance."""
        facts = {"d_in": self.d_in, "d_sae": self.d_sae}
        if self.is_transcoder:
            facts["d_out"] = self.d_out
        if self.k is not None:
            facts["k"] = self.k
        origin = {"model": "model_name", "hook": "hook_name", "hook_out": "hook_name_out"}
        known = {name: self.metadata[key] for name, key in origin.items() if self.metadata.get(key)}
        parameters = sum(parameter.numel() for parameter in self.parameters())
        return {**facts, **known, "parameters": f"{parameters:,}", "device": str(self.W_dec.device)}


def variance_of(target: Float[Tensor, "batch d_out"], tokens: Axis = SINGLE_PROCESS.tokens) -> Float[Tensor, ""]:
    """Mean over the tokens of all processes of ‖target − mean‖²."""
    count = len(target) * tokens.size
    mean = tokens.all_reduce(target.sum(dim=0)) / count
    return tokens.all_reduce((target - mean).square().sum()) / count


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
