"""Fold what a package computes while an SAE runs into the SAE's weights; in float64, because some of it cancels."""

import torch
from jaxtyping import Float
from torch import Tensor

from sae_core.saes import SAE


def normalise_rows(tensors: dict[str, Tensor]) -> bool:
    """Multiply every activation by the norm of its decoder row, which gets norm 1; False if there is nothing to do.

    The reconstruction stays the same. A feature whose row is zero is never active. Thresholds do not change.
    """
    if has_unit_rows(tensors["W_dec"]):
        return False
    norms = tensors["W_dec"].double().norm(dim=1)
    tensors["W_enc"] = (tensors["W_enc"] * norms).float()
    tensors["b_enc"] = (tensors["b_enc"] * norms).float()
    tensors["W_dec"] = (tensors["W_dec"] / norms.where(norms > 0, 1)[:, None]).float()
    return True


def has_unit_rows(W_dec: Float[Tensor, "d_sae d_out"]) -> bool:
    """True if every decoder row has norm 1, to float32's precision."""
    norms = W_dec.double().norm(dim=1)
    return torch.allclose(norms, torch.ones_like(norms), rtol=0, atol=1e-6)


def scale_input(tensors: dict[str, Tensor], scale: float) -> None:
    """Fold in the `scale` of an autoencoder's training, so that it reads and writes activations in the model's units.

    Feature activations stay the same, in the scaled units.
    """
    tensors["W_enc"] = (tensors["W_enc"].double() * scale).float()
    for name in ("W_dec", "b_dec"):
        tensors[name] = (tensors[name].double() / scale).float()


def encoder_bias(sae: SAE, *, centred: bool) -> Float[Tensor, " d_sae"]:
    """Return the `b_enc` with which an encoder that subtracts `b_dec`, or does not, computes the same as `sae`.

    (x − b_dec) W + b = x W + (b − b_dec W).
    """
    is_centred = sae.config.apply_b_dec_to_input and not sae.is_transcoder
    if is_centred == centred:
        return sae.b_enc
    shift = sae.b_dec.double() @ sae.W_enc.double()
    return (sae.b_enc + (shift if centred else -shift)).float()
