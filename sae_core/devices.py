"""The device to compute on."""

import torch

from sae_core.errors import ModelError


def resolve_device(device: str | torch.device) -> torch.device:
    """Return the device that `device` names; `auto` is CUDA if there is any, else the CPU.

    Raises:
        ModelError: there is no such device.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ModelError(f"There is no device '{device}' here. Use cpu, or cuda on a machine with a GPU.") from error
    return resolved
