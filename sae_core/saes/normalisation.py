"""Normalisations that some public SAEs apply to each token before encoding, and undo after decoding.

A factor that is the same for all tokens is not among them: it is folded into the weights when a checkpoint is read.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

NORMALISATIONS = ("none", "layer_norm", "constant_norm_rescale")
"""SAELens' names. `layer_norm` is OpenAI's as well."""


@dataclass(frozen=True)
class Moments:
    """Shift and scale of each token's activations."""

    shift: Float[Tensor, "token 1"] | float = 0.0
    scale: Float[Tensor, "token 1"] | float = 1.0
    epsilon: float = 0.0
    """Prevents a division by zero; `undo` does not use it."""

    def apply(self, x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_in"]:
        """Return (x − shift) / (scale + ε)."""
        return x if self is PLAIN else (x - self.shift) / (self.scale + self.epsilon)

    def undo(self, y: Float[Tensor, "token d_out"]) -> Float[Tensor, "token d_out"]:
        """Return y · scale + shift."""
        return y if self is PLAIN else y * self.scale + self.shift


PLAIN = Moments()


def token_moments(normalisation: str, x: Float[Tensor, "token d_in"]) -> Moments:
    """Return the shift and scale of each token, as SAELens 6 (and OpenAI's code) computes them.

    `layer_norm` subtracts the mean and divides by the unbiased standard deviation; `constant_norm_rescale` gives each
    token the norm √d_in.
    """
    if normalisation == "layer_norm":
        mean = x.mean(dim=1, keepdim=True)
        return Moments(mean, (x - mean).std(dim=1, keepdim=True), epsilon=1e-5)
    if normalisation == "constant_norm_rescale":
        return Moments(scale=torch.linalg.vector_norm(x, dim=1, keepdim=True) / x.shape[1] ** 0.5)
    return PLAIN
