"""Closeness of the reconstruction ŷ to the activations y that it stands for, and the number of active features.

For an autoencoder y is the input x, for a transcoder the activations at its target. A metric gives the value for the
sample and for each replicate (see `sae_core.evaluation.resampling`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor
from torch.nn.functional import cosine_similarity

from sae_core.errors import SAEError
from sae_core.evaluation.resampling import ResampledSums

Values = Float64[Tensor, "1+replicate"]


@dataclass
class ReconstructionSums(ResampledSums):
    """Sums over tokens behind the reconstruction metrics."""

    reference: Float64[Tensor, " d_out"] | None = None
    """The mean of the first batch. Activations are summed by their distance from it: a residual stream's mean is large,
    and E‖y‖² − ‖μ‖² would cancel."""

    def compare(
        self,
        sequence: Int64[Tensor, " token"],
        y: Float[Tensor, "token d_out"],
        reconstructed: Float[Tensor, "token d_out"],
        f: Float[Tensor, "token d_sae"],
    ) -> None:
        """Add some tokens: the numbers of their sequences, activations, reconstructions and feature activations.

        Raises:
            SAEError: an activation or a reconstruction is not a number, or too large to be squared.
        """
        squared_error = (y - reconstructed).square().sum(dim=1, dtype=torch.float64)
        if not squared_error.isfinite().all():
            raise SAEError(
                "The SAE gives reconstructions that are not numbers, or far too large. Its weights are damaged: train "
                "it again, or copy it here again."
                if y.isfinite().all()
                else "The model's activations are not numbers. Check the model, or choose another hook point."
            )
        if self.reference is None:
            self.reference = y.mean(dim=0, dtype=torch.float64)
        offset = y.double() - self.reference
        norm = torch.linalg.vector_norm(y, dim=1).clamp(min=torch.finfo(y.dtype).tiny)
        self.add(
            sequence,
            active=(f > 0).sum(dim=1),
            squared_error=squared_error,
            offset=offset,
            squared_offset=offset.square().sum(dim=1),
            cosine=cosine_similarity(y, reconstructed),
            l2_ratio=torch.linalg.vector_norm(reconstructed, dim=1) / norm,
        )

    def mean_activation(self) -> Float64[Tensor, " d_out"]:
        """Return the mean over all tokens of y."""
        assert self.reference is not None
        return self.reference + self.mean("offset")[0]


def l0(sums: ReconstructionSums) -> Values:
    """Mean over tokens of #{f > 0}."""
    return sums.mean("active")


def mse(sums: ReconstructionSums) -> Values:
    """Mean over tokens of ‖y − ŷ‖², summed over dimensions."""
    return sums.mean("squared_error")


def explained_variance(sums: ReconstructionSums) -> Values:
    """1 − E‖y − ŷ‖² / E‖y − μ‖², μ the mean over all tokens: a ratio of means, in which predicting μ scores 0.

    Averaging per batch or per dimension instead, as some evaluations do, gives credit for the mean. Each replicate has
    a mean of its own.

    Raises:
        SAEError: the activations do not vary.
    """
    variance = sums.mean("squared_offset") - sums.mean("offset").square().sum(dim=1)
    if variance[0] <= 0:
        raise SAEError("The activations are the same on every token, so nothing can be explained. Use more text.")
    return 1 - mse(sums) / variance


def cosine(sums: ReconstructionSums) -> Values:
    """Mean over tokens of cos(y, ŷ)."""
    return sums.mean("cosine")


def l2_ratio(sums: ReconstructionSums) -> Values:
    """Mean over tokens of ‖ŷ‖ / ‖y‖; below 1 where sparsity shrinks activations."""
    return sums.mean("l2_ratio")


METRICS: dict[str, Callable[[ReconstructionSums], Values]] = {
    "l0": l0,
    "explained_variance": explained_variance,
    "mse": mse,
    "cosine": cosine,
    "l2_ratio": l2_ratio,
}
"""In reading order."""
