"""The device to compute on, and the precision of its products."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

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


def answers_at_once(tensor: Tensor) -> bool:
    """True if reading a tensor's numbers costs nothing: on a CPU. A GPU would have to finish all that it was given."""
    return tensor.device.type == "cpu"


@contextmanager
def float32_products(*, tf32: bool) -> Iterator[None]:
    """Let GPUs round the factors of float32 products to TF32, or not; what the process had before is restored.

    It is a variable of the process, which in a worker does other runs afterwards.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
