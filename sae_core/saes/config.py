"""The config that all architectures share."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class SAEConfig:
    """Sizes and units of an SAE; each architecture's config adds its own fields."""

    d_in: int
    """Width of the activations that the SAE reads."""
    d_sae: int
    """Number of features."""
    d_out: int | None = None
    """Width of what a transcoder reconstructs; None for an autoencoder, which reconstructs its input."""
    skip: bool = False
    """True if a transcoder adds x W_skip to its reconstruction (Paulo et al. 2025, arXiv:2501.18823)."""
    apply_b_dec_to_input: bool = True
    """True if an autoencoder subtracts `b_dec` from its input before it encodes; a transcoder never does."""
    normalize_activations: str = "none"
    """Normalisation of each token before encoding: a name in `sae_core.saes.normalisation`. Training never sets it."""
