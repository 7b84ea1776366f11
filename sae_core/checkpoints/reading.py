"""Read the files of an SAE, and check them before anything is built from them."""

import json
import pickle
from collections.abc import Container, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from sae_core.errors import CheckpointError, first_line
from sae_core.saes import SAE, Gated, SAEConfig

Config = Mapping[str, Any]
"""A JSON object that came with the weights."""

# Files


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CheckpointError: it is missing or is not one.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise CheckpointError(f"{path.parent} holds no {path.name}. Copy the SAE here again, with all files.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise unreadable(path, error) from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is not a JSON object. Copy the SAE here again.")
    return value


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a safetensors file, on the CPU.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    require(path)
    try:
        return load_file(path)
    except Exception as error:  # damaged bytes make parsers raise errors of nearly any kind
        raise unreadable(path, error) from error


def read_pickle(path: Path) -> dict[str, Any]:
    """Read a dictionary of tensors, numbers and text that `torch.save` wrote, on the CPU.

    Raises:
        CheckpointError: it is missing or damaged, or could run code when it is read.
    """
    require(path)
    try:
        value = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own words would tell the user to let the code run.
        if "Unsupported operand" in str(error):
            raise unreadable(path, "it is not what torch.save writes") from error
        raise runs_code(path) from error
    except Exception as error:  # as above
        raise unreadable(path, error) from error
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise CheckpointError(f"{path} holds no dictionary of tensors by name. Give the state_dict of an SAE.")
    for name, entry in value.items():
        if isinstance(entry, Tensor) and not _is_plain(entry):
            raise CheckpointError(f"{path} holds {short(name)} in a form other than plain numbers. Save it dense.")
    # A tensor may repeat the same few bytes, and then fill the memory as soon as something is done with it.
    if any(isinstance(entry, Tensor) and entry.nbytes > path.stat().st_size for entry in value.values()):
        raise CheckpointError(f"{path} holds tensors larger than the file. Copy the SAE here again.")
    return value


def _is_plain(tensor: Tensor) -> bool:
    """True if each element of a tensor lies in memory as a number."""
    return tensor.layout is torch.strided and not (tensor.is_meta or tensor.is_quantized or tensor.is_nested)


def runs_code(path: Path) -> CheckpointError:
    """Return the error for a pickle of more than tensors."""
    return CheckpointError(
        f"{path} is a pickle that runs code when it is read, so it was not read. "
        "Save only its tensors (a state_dict), and give those."
    )


def unreadable(path: Path, error: Exception | str) -> CheckpointError:
    """Return the error for a file that cannot be parsed, in one line."""
    return CheckpointError(
        f"{path} cannot be read: {short(first_line(error), 200) or 'it ends too early'}. Copy the SAE here again."
    )


def require(path: Path) -> None:
    """Refuse a folder that lacks one of its files."""
    if not path.is_file():
        raise CheckpointError(f"{path.parent} holds no {path.name}. Copy the SAE here again, with all files.")


def short(text: str, most: int = 80) -> str:
    """Return text of a file for a sentence, cut where it is long."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def listed(names: Iterable[str], most: int = 20) -> str:
    """Return names for a sentence; of many only the first, and the number of the others."""
    shown = list(names)
    more = f" and {len(shown) - most} more" if len(shown) > most else ""
    return ", ".join(short(name) for name in shown[:most]) + more


# Config


def positive_int(path: Path, config: Config, name: str, default: int | None = None) -> int:
    """Return a positive whole number of a config.

    Raises:
        CheckpointError: it is something else.
    """
    number = config.get(name, default)
    if type(number) is not int or not 1 <= number < 2**63:
        raise CheckpointError(
            f"{path} says {name} is {short(repr(number))}, not a positive whole number. Copy the SAE here again."
        )
    return number


def whole_k(path: Path, config: Config, d_sae: int, default: int | None = None) -> int:
    """Return the `k` of a config, at most the number of features.

    Raises:
        CheckpointError: it is something else.
    """
    k = positive_int(path, config, "k", default)
    if k > d_sae:
        raise CheckpointError(f"{path} says k is {k}, more than its {d_sae} features. Copy the SAE here again.")
    return k


def kept_k(path: Path, config: Config, d_sae: int) -> int | None:
    """Return the `k` that an SAE which computes without it was trained for; None if the config has no whole number.

    Raises:
        CheckpointError: it can be no number of active features.
    """
    return whole_k(path, config, d_sae) if type(config.get("k")) is int else None


def boolean(path: Path, config: Config, name: str, default: bool) -> bool:
    """Return a true or false of a config; null is false, as it is to the packages that write these.

    Raises:
        CheckpointError: it is something else, such as the text "false".
    """
    value = config.get(name, default)
    if value is not None and not isinstance(value, bool):
        raise CheckpointError(
            f"{path} says {name} is {short(repr(value))}, not true or false. Copy the SAE here again."
        )
    return bool(value)


def subdict(config: Config, name: str) -> dict[str, Any]:
    """Return a JSON object inside a config, empty if it is missing or something else."""
    value = config.get(name)
    return value if isinstance(value, dict) else {}


def drop_none(**metadata: Any) -> dict[str, Any]:
    """Return metadata without the entries that are None."""
    return {name: value for name, value in metadata.items() if value is not None}


def cannot_read(path: Path, what: str, value: Any, readable: tuple[str, ...]) -> CheckpointError:
    """Return the error for an undamaged SAE of a kind that SeeSAE does not have."""
    return CheckpointError(
        f"{path} says {what} {short(repr(value))}, which cannot be read. Give one of {', '.join(readable)}."
    )


# Weights


def widths(path: Path, tensors: Mapping[str, Any], encoder: str) -> tuple[int, int]:
    """Return the two sizes of an encoder's matrix, for formats whose config does not have them.

    Raises:
        CheckpointError: there is no such matrix.
    """
    tensor = tensors.get(encoder)
    if not isinstance(tensor, Tensor) or tensor.ndim != 2 or not tensor.numel():
        raise CheckpointError(f"{path} holds no matrix {encoder}, so it is not an SAE of this format. Check the file.")
    return tensor.shape[0], tensor.shape[1]


def select_weights(
    path: Path,
    tensors: Mapping[str, Any],
    names: Mapping[str, str],
    config: SAEConfig,
    *,
    ignored: Container[str] = (),
) -> dict[str, Tensor]:
    """Return an SAE's weights under our names, in float32 and of the shapes that `config` gives.

    Args:
        path: the file, for messages.
        tensors: content of the file.
        names: the file's name of each tensor, and ours; `W_enc.T` if the file holds the transpose of `W_enc`.
        config: gives the sizes.
        ignored: names of further tensors that the SAE does not compute with.

    Raises:
        CheckpointError: a tensor is missing, of another shape, not of floating-point type, not finite, or unknown.
    """
    taken = {}
    for theirs, name in names.items():
        ours, _, transposed = name.partition(".")
        shape = _shape(ours, config)
        tensor = _checked(path, tensors, theirs, shape[::-1] if transposed else shape)
        taken[ours] = tensor.t() if transposed else tensor
    if unknown := [name for name in tensors if name not in names and name not in ignored]:
        raise CheckpointError(
            f"{path} holds {listed(sorted(unknown))} too, which this kind of SAE does not have. "
            "Check that the config is that of these weights."
        )
    return taken


def _checked(path: Path, tensors: Mapping[str, Any], name: str, shape: tuple[int, ...]) -> Tensor:
    tensor = tensors.get(name)
    if not isinstance(tensor, Tensor):
        raise CheckpointError(f"{path} holds no {name}. Copy the SAE here again.")
    if tuple(tensor.shape) != shape:
        raise CheckpointError(
            f"{path} holds {name} with shape {list(tensor.shape)} where {list(shape)} is expected. "
            "Check that the config is that of these weights."
        )
    if not tensor.is_floating_point():
        raise CheckpointError(f"{path} holds {name} as {tensor.dtype}. Give an SAE with floating-point weights.")
    tensor = tensor.float()
    if not tensor.isfinite().all():
        raise CheckpointError(f"{path} holds NaN or infinite values in {name}. Train or copy it again.")
    return tensor


def _shape(name: str, config: SAEConfig) -> tuple[int, ...]:
    d_out = config.d_in if config.d_out is None else config.d_out
    shapes = {
        "W_enc": (config.d_in, config.d_sae),
        "W_dec": (config.d_sae, d_out),
        "b_dec": (d_out,),
        "W_skip": (config.d_in, d_out),
    }
    return shapes.get(name, (config.d_sae,))


def build(
    path: Path, architecture: type[SAE], config: SAEConfig, tensors: dict[str, Tensor], metadata: Mapping[str, Any]
) -> SAE:
    """Return the inference form of an SAE with these weights, which are removed one by one to save memory.

    Raises:
        CheckpointError: a weight became infinite as something was folded into it.
    """
    sae = architecture(config).requires_grad_(False)
    for name, parameter in sae.named_parameters():
        parameter.copy_(tensors.pop(name))
    if isinstance(sae, Gated):
        sae = sae.double().for_inference().float()  # its threshold is a difference
    for name, parameter in sae.named_parameters():
        if not parameter.isfinite().all():
            raise CheckpointError(f"{path} gives infinite values in {name}: its scales are not those of its weights.")
    sae.metadata = metadata
    return sae
