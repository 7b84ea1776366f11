"""Start values of an SAE, from a sample of the activations that it will be trained on."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from sae_core.parallel import SINGLE_PROCESS, Axis

RIDGE = 0.01
"""Share of the input's mean variance that is added to each direction's, so that one without any does no harm."""
JITTER = 0.1
"""Length of a discriminant's random part: features of equal activations start apart, or they would stay equal."""


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
    """Return unit decoder rows that tell activations of the sample apart, and an encoder that is their transpose.

    Random directions start with features that are active on much the same text: on that along which activations vary
    most. A direction that tells one activation from all the others (`_discriminants`) has its own text from the first
    step, so that three passes over the data explain what took five (docs/training.md). Features that the sample has no
    activation for start in random directions.

    `b_dec` is the sample's geometric median. The scale gives activations a mean norm of √d_in.

    Args:
        sample: activations in the model's own units.
        d_sae: features of this process.
        seed: of the directions.
        features: the processes that share the dictionary; its start values do not depend on their number.
    """
    generator = torch.Generator().manual_seed(seed)
    W_dec = _discriminants(d_sae, sample, generator, features)
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
    return _times_inverse_covariance(x_centred, x_centred.t() @ y_centred).to(x.dtype)


def _times_inverse_covariance(
    centred: Float[Tensor, "tokens width"], columns: Float[Tensor, "width columns"]
) -> Float[Tensor, "width columns"]:
    """Return (XᵀX + ridge)⁻¹ times `columns`."""
    covariance = centred.t() @ centred
    covariance.diagonal().add_(RIDGE * covariance.diagonal().mean())
    solution: Float[Tensor, "width columns"] = torch.linalg.solve(covariance, columns)
    return solution


def _discriminants(
    d_sae: int, sample: Float[Tensor, "tokens width"], generator: torch.Generator, features: Axis
) -> Float[Tensor, "d_sae width"]:
    """Unit vectors, each of which tells one random activation of the sample from the others; random ones beyond these.

    A row is Fisher's linear discriminant (Annals of Eugenics 7, 1936) of a class with one member: the inverse of the
    covariance times what sets the activation apart from the mean. It is this process' part of the whole dictionary.
    """
    directions = _directions(d_sae, sample, generator, features)
    centred = (sample - sample.mean(dim=0)).double()
    chosen = torch.randperm(len(sample), generator=generator)[: d_sae * features.size].to(sample.device)
    found = _times_inverse_covariance(centred, centred[chosen].t()).t()[features.part(d_sae * features.size)]
    found = found / torch.linalg.vector_norm(found, dim=1, keepdim=True).clamp(min=torch.finfo(found.dtype).tiny)
    started = directions[: len(found)]
    started.mul_(JITTER).add_(found.to(started))
    return directions.div_(torch.linalg.vector_norm(directions, dim=1, keepdim=True))


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
