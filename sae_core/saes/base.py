"""What every sparse autoencoder (SAE) shares: parameters, inference, units, and the contract of a training step."""

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from sae_core import kernels
from sae_core.errors import SAEError
from sae_core.kernels import Selection
from sae_core.parallel import SINGLE_PROCESS, Axis
from sae_core.saes.batch import Batch, Losses
from sae_core.saes.config import SAEConfig
from sae_core.saes.display import Display
from sae_core.saes.initialisation import autoencoder_start_values, transcoder_start_values
from sae_core.saes.normalisation import NORMALISATIONS, token_moments


class SAE(Display):
    """A dictionary of `d_sae` features on the `d_in` activations of one hook point.

        pre = (x − b_dec) W_enc + b_enc        f = activate(pre) ≥ 0        x̂ = f W_dec + b_dec

    A transcoder reads one hook point and reconstructs another: pre = x W_enc + b_enc, ŷ = f W_dec + b_dec (+ x W_skip).

    `W_enc` has the shape `[d_in, d_sae]` but is laid out by feature, as `W_dec` is: sparse kernels read and write one
    feature's direction as one run of memory.
    """

    architecture: ClassVar[str]
    """The name in `ARCHITECTURES` and on disk."""
    Config: ClassVar[type[SAEConfig]] = SAEConfig
    """Type of the architecture's config."""
    replicated: ClassVar[frozenset[str]] = frozenset({"b_dec", "W_skip"})
    """Parameters without a feature dimension: every process of a width-sharded dictionary holds all of them."""
    lr_factors: ClassVar[Mapping[str, float]] = {}
    """Factors on the learning rate of some parameters; 1 for the others."""
    is_dense: ClassVar[bool] = False
    """True if a step computes with all features, not only with the active ones; then `torch.compile` pays."""

    W_enc: Float[nn.Parameter, "d_in d_sae"]
    b_enc: Float[nn.Parameter, " d_sae"]
    W_dec: Float[nn.Parameter, "d_sae d_out"]
    b_dec: Float[nn.Parameter, " d_out"]
    W_skip: Float[nn.Parameter, "d_in d_out"] | None
    input_scale: Float[Tensor, ""]
    """While training, activations are multiplied by this before encoding; 1 in the inference form."""
    output_scale: Float[Tensor, ""]
    """The same for the activations to reconstruct; an autoencoder's is its input scale."""
    metadata: Mapping[str, Any]
    """Origin of the SAE: `model_name`, `hook_name` and more, as SAELens names them."""

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

    # Sizes

    @property
    def d_in(self) -> int:
        """Width of the activations that the SAE reads."""
        return self.config.d_in

    @property
    def d_out(self) -> int:
        """Width of the activations that it reconstructs."""
        return self.config.d_in if self.config.d_out is None else self.config.d_out

    @property
    def d_sae(self) -> int:
        """Number of features."""
        return self.config.d_sae

    @property
    def k(self) -> int | None:
        """Active features per token that training aims at; None if the architecture sets no number."""
        return getattr(self.config, "k", None)

    @property
    def is_transcoder(self) -> bool:
        """True if it reconstructs another hook point than it reads."""
        return self.config.d_out is not None

    # Its texts

    @property
    def prepend_bos(self) -> bool:
        """True if its texts begin with the model's BOS token, as they do where its origin says nothing."""
        return self.metadata.get("prepend_bos") is not False

    @property
    def context_size(self) -> int | None:
        """Tokens of the sequences that it was trained on, None where its origin does not say."""
        return self.metadata.get("context_size")

    @property
    def _centres_input(self) -> bool:
        return self.config.apply_b_dec_to_input and not self.is_transcoder

    # Inference

    def encode(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_sae"]:
        """Return the feature activations, ≥ 0, of activations in the model's own units."""
        return self.activate(self._pre_activations(x)).reshape(*x.shape[:-1], self.d_sae)

    def encode_sparse(self, x: Float[Tensor, "token d_in"]) -> tuple[Selection, Float[Tensor, " active"]]:
        """Return the non-zero entries of `encode` and their values; only pre-activations become a dense matrix."""
        return self.activate_sparse(self._pre_activations(x))

    def decode(
        self, f: Float[Tensor, "... d_sae"], x: Float[Tensor, "... d_in"] | None = None
    ) -> Float[Tensor, "... d_out"]:
        """Return the reconstruction f W_dec + b_dec.

        Args:
            f: feature activations.
            x: the activations that they were encoded from. An SAE that normalises each token or has a skip connection
                needs them.

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

    def scale_back(self, f: Float[Tensor, " token"], x: Float[Tensor, "token d_in"]) -> Float[Tensor, " token"]:
        """Return one feature's activations on the tokens `x` as factors of its decoder row in the model's own units.

        They differ from `f` where the SAE normalises each token.
        """
        scale = token_moments(self.config.normalize_activations, self._rows(x)).scale
        return f * (scale[:, 0] if isinstance(scale, Tensor) else scale)

    def forward(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "... d_out"]:
        """Return the reconstruction of activations in the model's own units."""
        return self.decode(self.encode(x), x)

    def _pre_activations(self, x: Float[Tensor, "... d_in"]) -> Float[Tensor, "token d_sae"]:
        """Pre-activations of activations in the model's own units."""
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
        """Return (x − b_dec) W_enc + b_enc, without b_dec in a transcoder, in `b_enc`'s type also under autocast."""
        centre = self.centre(features)
        pre = torch.addmm(self.b_enc, x if centre is None else x - centre, self.W_enc)
        return pre.to(self.b_enc.dtype)

    def centre(self, features: Axis = SINGLE_PROCESS.features) -> Float[Tensor, " d_in"] | None:
        """Return what is subtracted from the input before it is encoded, if anything."""
        return features.copy_to(self.b_dec) if self._centres_input else None

    def activate(self, pre: Float[Tensor, "batch d_sae"]) -> Float[Tensor, "batch d_sae"]:
        """Return the feature activations, ≥ 0, from pre-activations."""
        raise NotImplementedError

    def activate_sparse(self, pre: Float[Tensor, "batch d_sae"]) -> tuple[Selection, Float[Tensor, " active"]]:
        """Return the non-zero entries of `activate` and their values."""
        f = self.activate(pre)
        active = kernels.above(f, f.new_zeros(self.d_sae))
        return active, active.values(f)

    def skipped(self, x: Float[Tensor, "batch d_in"]) -> Float[Tensor, "batch d_out"] | float:
        """Return what the skip connection adds to the reconstruction: x W_skip, or 0."""
        return 0.0 if self.W_skip is None else x @ self.W_skip

    def reconstruct(
        self, f: Float[Tensor, "batch d_sae"], x: Float[Tensor, "batch d_in"], features: Axis
    ) -> Float[Tensor, "batch d_out"]:
        """Return the reconstruction of a training step: f W_dec + b_dec (+ x W_skip), over all shards."""
        return features.all_reduce((f @ self.W_dec).to(self.b_dec.dtype)) + self.b_dec + self.skipped(x)

    def losses(self, batch: Batch) -> Losses:
        """Return the losses of one training step."""
        raise NotImplementedError

    # Training

    @classmethod
    def is_mean_over_tokens(cls, options: Mapping[str, Any]) -> bool:
        """Return True if the loss, with these options, is a mean over tokens: then a batch may be taken in parts.

        A selection, a threshold, an L0 or a ratio of a whole batch is not the mean of those of its parts.
        """
        return False

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

        Args:
            sample: activations that the SAE reads.
            seed: of the directions.
            target: activations that a transcoder reconstructs; None takes the sample.
            features: the processes that share the dictionary; its start values do not depend on their number.
        """
        if self.is_transcoder:
            values = transcoder_start_values(sample, sample if target is None else target, self.d_sae, seed, features)
        else:
            values = autoencoder_start_values(sample, self.d_sae, seed, features)
        for name, value in vars(values).items():
            getattr(self, name).copy_(value)

    @torch.no_grad()
    def normalise_decoder(self) -> None:
        """Give every decoder row unit norm."""
        self.W_dec.div_(torch.linalg.vector_norm(self.W_dec, dim=1, keepdim=True))

    @torch.no_grad()
    def remove_parallel_gradient(self) -> None:
        """Remove the component of each decoder row's gradient along the row: its norm is fixed."""
        if self.W_dec.grad is not None:
            along = torch.linalg.vecdot(self.W_dec.grad, self.W_dec)[:, None]
            self.W_dec.grad.addcmul_(along, self.W_dec, value=-1)

    @torch.no_grad()
    def fold_scales(self) -> None:
        """Fold the scales into the weights, so that the SAE reads and writes activations in the model's own units.

        With input scale s and output scale t, every activation function here satisfies act(t·pre) = t·act(pre) if a
        threshold is scaled too. So multiplying the encoder by s / t and dividing what is added in scaled units by t
        gives f / t and the reconstruction / t; decoder rows keep their norm.
        """
        self.W_enc.mul_(self.input_scale / self.output_scale)
        if self.W_skip is not None:
            self.W_skip.mul_(self.input_scale / self.output_scale)
        for name in self.in_output_units():
            self.get_parameter(name).div_(self.output_scale)
        self.input_scale.fill_(1)
        self.output_scale.fill_(1)

    def in_output_units(self) -> tuple[str, ...]:
        """Return the names of the parameters in units of the reconstruction."""
        return ("b_enc", "b_dec")

    def for_inference(self) -> "SAE":
        """Return a copy in the form that is saved and indexed: it reads activations in the model's own units.

        Its parameters need no gradient, so that encoding keeps no graph.
        """
        sae = copy.deepcopy(self).requires_grad_(False)
        sae.fold_scales()
        return sae
