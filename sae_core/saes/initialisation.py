"""Start values of an SAE, from a sample of the activations that it will be trained on."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sae_core.parallel import SINGLE_PROCESS, Axis

RIDGE = 0.01
"""Share of the input's mean variance that is added to each direction's, so that one without any does no harm."""


@dataclass(frozen=True)
class StartValues:
    """Start values of the parameters and scales that every architecture has."""

    W_enc: Float[Tensor, "d_in d_sae"]
    b_enc: Float[Tensor, " d_sae"]
    W_dec: Float[Tensor, "d_sae d_out"]
    b_dec: Float[Tensor, " d_out"]
    input_scale: Float[Tensor, ""]
    output_scale: Float[Tensor, ""]


def autoencoder_start_values(
    sample: Float[Tensor, "tokens d_in"], d_sae: int, seed: int, features: Axis = SINGLE_PROCESS.features
) -> StartValues:
    """Return unit decoder rows in random directions and an encoder that is their transpose.

    `b_dec` is the sample's geometric median. The scale gives activations a mean norm of √d_in.

    Args:
        sample: activations in the model's own units.
        d_sae: features of this process.
        seed: of the directions.
        features: the processes that share the dictionary; its start values do not depend on their number.
    """
    generator = torch.Generator().manual_seed(seed)
    W_dec = _directions(d_sae, sample, generator, features)
    scale = _scale(sample)
    return StartValues(W_dec.t(), sample.new_zeros(d_sae), W_dec, geometric_median(sample * scale), scale, scale)


def transcoder_start_values(
    sample: Float[Tensor, "tokens d_in"],
    target: Float[Tensor, "tokens d_out"],
    d_sae: int,
    seed: int,
    features: Axis = SINGLE_PROCESS.features,
) -> StartValues:
    """As `autoencoder_start_values`, with encoder directions that predict their decoder direction.

    A feature's encoder direction is that of the linear regression, over the sample, of the target along its decoder
    direction on the input. So what makes a feature active is what it writes, as in an autoencoder, whose two directions
    are the same one. Of features whose two directions have nothing to do with each other, a fifth to a half are never
    among the k largest pre-activations, and stay dead (docs/training.md).

    `b_enc` subtracts what the input's geometric median would give. Otherwise the few directions near the median would
    be active on every token, and the others dead.
    """
    generator = torch.Generator().manual_seed(seed)
    W_dec = _directions(d_sae, target, generator, features)
    input_scale, output_scale = _scale(sample), _scale(target)
    W_enc = _regression(sample * input_scale, target * output_scale) @ W_dec.t()
    W_enc = W_enc / torch.linalg.vector_norm(W_enc, dim=0).clamp(min=torch.finfo(W_enc.dtype).tiny)
    b_enc = -geometric_median(sample * input_scale) @ W_enc
    return StartValues(W_enc, b_enc, W_dec, geometric_median(target * output_scale), input_scale, output_scale)


def geometric_median(
    points: Float[Tensor, "points d_in"], *, iterations: int = 50, tolerance: float = 1e-5
) -> Float[Tensor, " d_in"]:
    """Return the point with the least mean distance to all others, by Weiszfeld's algorithm.

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


def _regression(x: Float[Tensor, "tokens d_in"], y: Float[Tensor, "tokens d_out"]) -> Float[Tensor, "d_in d_out"]:
    """Return the linear map that predicts y − mean from x − mean with the least squared error, by ridge regression."""
    x_centred, y_centred = (x - x.mean(dim=0)).double(), (y - y.mean(dim=0)).double()
    covariance = x_centred.t() @ x_centred
    covariance.diagonal().add_(RIDGE * covariance.diagonal().mean())
    solution: Float[Tensor, "d_in d_out"] = torch.linalg.solve(covariance, x_centred.t() @ y_centred).to(x.dtype)
    return solution


def _directions(
    d_sae: int, sample: Float[Tensor, "tokens width"], generator: torch.Generator, features: Axis
) -> Float[Tensor, "d_sae width"]:
    """Random unit vectors, this process' part of those of the whole dictionary."""
    total = d_sae * features.size
    directions = torch.randn(total, sample.shape[1], generator=generator)[features.part(total)].to(sample)
    return directions.div_(torch.linalg.vector_norm(directions, dim=1, keepdim=True))


def _scale(sample: Float[Tensor, "tokens width"]) -> Float[Tensor, ""]:
    """The factor that gives activations a mean norm of the square root of their width."""
    scale: Float[Tensor, ""] = sample.shape[1] ** 0.5 / sample.norm(dim=1).mean()
    return scale
