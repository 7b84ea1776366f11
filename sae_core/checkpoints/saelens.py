"""SAELens v6: `cfg.json` and `sae_weights.safetensors`. SeeSAE's own layout on disk is the same."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sae_core.errors import CheckpointError
from sae_core.files import sha256_file, write_json
from sae_core.saes import ARCHITECTURES, SAE, JumpReLU, SAEConfig, Standard, TopK
from sae_core.tensor_files import write_tensors

CONFIG = "cfg.json"
WEIGHTS = "sae_weights.safetensors"
READABLE = tuple(sae.architecture for sae in (Standard, TopK, JumpReLU))


def write(sae: SAE, folder: Path, metadata: Mapping[str, Any]) -> None:
    """Write the inference form of an SAE so that SAELens and SeeSAE can read it.

    The config is written last, with the hash of the weights: a folder that has a config is complete.

    Args:
        sae: in any form; `for_inference` is applied.
        folder: made if it is missing.
        metadata: `model_name`, `hook_name` (TransformerLens' name), `context_size`, `prepend_bos`, and under `seesae`
            whatever else should travel with the weights, such as the training config.

    Raises:
        ArtifactError: if the disk is full.
    """
    sae = sae.for_inference()
    write_tensors(folder / WEIGHTS, dict(sae.named_parameters()))
    config = {
        "architecture": sae.architecture,
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {
            **metadata,
            "seesae": {**metadata.get("seesae", {}), "weights_sha256": sha256_file(folder / WEIGHTS)},
        },
    }
    if isinstance(sae, TopK):
        config |= {"k": sae.k, "rescale_acts_by_decoder_norm": False}
    write_json(folder / CONFIG, config)


def read(folder: Path) -> SAE:
    """Read an SAE in float32 on the CPU; what SAELens computes as it runs is folded into the weights.

    Raises:
        CheckpointError: if a file is missing or damaged, or says something that SeeSAE cannot do.
    """
    config = read_config(folder)
    sae_config = _sae_config(folder, config)
    tensors = _read_weights(folder, config)
    _checked(folder, tensors, "W_enc", (sae_config.d_in, sae_config.d_sae))  # before memory is taken for a wrong size
    sae = ARCHITECTURES[config["architecture"]](sae_config).requires_grad_(False)
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            parameter.copy_(_checked(folder, tensors, name, tuple(parameter.shape)))
        if config.get("rescale_acts_by_decoder_norm"):
            _fold_decoder_norm(sae)
        if not config.get("apply_b_dec_to_input", True):
            sae.b_enc.add_(sae.b_dec @ sae.W_enc)  # x W + b = (x − b_dec) W + (b + b_dec W)
    return sae


def read_config(folder: Path) -> dict[str, Any]:
    """The whole `cfg.json`; its `metadata` says what the SAE was trained on.

    Raises:
        CheckpointError: if it is missing or is not a JSON object.
    """
    path = folder / CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{folder} holds no {CONFIG}. Give a folder with {CONFIG} and {WEIGHTS}.") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}. Copy the SAE here again.") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{path} is not a JSON object. Copy the SAE here again.")
    return config


def _sae_config(folder: Path, config: Mapping[str, Any]) -> SAEConfig:
    """The SAE's own config, once everything in `cfg.json` is known to be something that SeeSAE can do."""
    architecture = config.get("architecture")
    if architecture not in READABLE:
        raise CheckpointError(
            f"{folder} holds an SAE of architecture {architecture!r}, which cannot be read. "
            f"Give one of {', '.join(READABLE)}."
        )
    for key, plain in {"normalize_activations": "none", "reshape_activations": "none"}.items():
        if config.get(key, plain) != plain:
            raise CheckpointError(f"{folder} has {key} {config[key]!r}, which cannot be read. Give {plain!r}.")
    if config.get("d_out", config.get("d_in")) != config.get("d_in"):
        raise CheckpointError(f"{folder} holds a transcoder, which cannot be read. Give a sparse autoencoder.")
    names = ("d_in", "d_sae", "k") if architecture == "topk" else ("d_in", "d_sae")
    numbers: dict[str, Any] = {name: config.get(name) for name in names}
    for name, number in numbers.items():
        if type(number) is not int or number < 1:
            raise CheckpointError(f"{folder / CONFIG} says {name} is {number!r}, not a positive whole number.")
    return ARCHITECTURES[architecture].Config(**numbers)


def _read_weights(folder: Path, config: Mapping[str, Any]) -> dict[str, Tensor]:
    path = folder / WEIGHTS
    if not path.is_file():
        raise CheckpointError(f"{folder} holds no {WEIGHTS}. Copy the SAE here again.")
    recorded = _provenance(config).get("weights_sha256")
    if recorded is not None and sha256_file(path) != recorded:
        raise CheckpointError(f"{path} is not the file that {CONFIG} was written with. Copy the SAE here again.")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}. Copy the SAE here again.") from error


def _provenance(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """What SeeSAE noted when it wrote the config; empty in a config of someone else's."""
    metadata = config.get("metadata")
    noted = metadata.get("seesae") if isinstance(metadata, dict) else None
    return noted if isinstance(noted, dict) else {}


def _checked(folder: Path, tensors: Mapping[str, Tensor], name: str, shape: tuple[int, ...]) -> Tensor:
    """The tensor of that name, if it has the right shape and only numbers in it."""
    if name not in tensors:
        raise CheckpointError(f"{folder / WEIGHTS} holds no {name}. Copy the SAE here again.")
    tensor = tensors[name]
    if tuple(tensor.shape) != shape:
        raise CheckpointError(
            f"{folder / WEIGHTS} holds {name} with shape {list(tensor.shape)} where {CONFIG} says {list(shape)}."
        )
    if not tensor.isfinite().all():
        raise CheckpointError(f"{folder / WEIGHTS} holds NaN or infinite values in {name}. Train or copy it again.")
    return tensor


def _fold_decoder_norm(sae: SAE) -> None:
    """Make f the activation times its decoder row's norm, as SAELens' `rescale_acts_by_decoder_norm` has it."""
    norms: Float[Tensor, " d_sae"] = torch.linalg.vector_norm(sae.W_dec, dim=1)
    sae.W_enc.mul_(norms)
    sae.b_enc.mul_(norms)
    sae.W_dec.div_(norms[:, None])
