"""Parts of an SAE in JSON: float32, little-endian, in base64."""

import base64
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sae_core.errors import ModelError
from sae_core.interventions.narrow import narrowed
from sae_core.saes import ARCHITECTURES, SAE


def sae_to_json(sae: SAE, features: Sequence[int]) -> dict[str, Any]:
    """Return the part of an SAE that it takes to encode these features."""
    small, row_of = narrowed(sae, features)
    tensors = {
        name: tensor_to_json(parameter.t() if name == "W_enc" else parameter)
        for name, parameter in small.named_parameters()
        if name != "W_skip"  # no feature's share depends on it
    }
    config = {**asdict(small.config), "skip": False}
    return {"architecture": small.architecture, "config": config, "row_of": row_of, "tensors": tensors}


def sae_from_json(content: dict[str, Any]) -> tuple[SAE, dict[int, int]]:
    """Return the part of an SAE that `sae_to_json` wrote, and the row of each feature in it.

    Raises:
        ModelError, KeyError, TypeError, ValueError, RuntimeError: it did not write this.
    """
    made = ARCHITECTURES[content["architecture"]]
    sae = made(made.Config(**content["config"])).requires_grad_(False)
    for name, parameter in sae.named_parameters():
        rows = tensor_from_json(content["tensors"][name])
        wanted = parameter.t() if name == "W_enc" else parameter
        if rows.shape != wanted.shape or not rows.isfinite().all():
            raise ModelError(f"{name} is not {tuple(wanted.shape)} finite numbers")
        wanted.copy_(rows)
    return sae, {int(feature): row for feature, row in content["row_of"].items()}


def tensor_to_json(tensor: Tensor) -> dict[str, Any]:
    """Return a tensor as JSON: shape, and float32 in base64."""
    data = tensor.detach().float().cpu().contiguous().numpy().astype("<f4")
    return {"shape": list(data.shape), "float32": base64.b64encode(data.tobytes()).decode()}


def tensor_from_json(content: dict[str, Any]) -> Tensor:
    """Return the tensor that `tensor_to_json` wrote.

    Raises:
        KeyError, TypeError, ValueError: it did not write this.
    """
    data = np.frombuffer(base64.b64decode(content["float32"], validate=True), dtype="<f4").astype(np.float32)
    return torch.from_numpy(data.reshape(content["shape"]))
