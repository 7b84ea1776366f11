"""Triton kernels for NVIDIA GPUs, in fixed shapes and without host synchronisation.

They are used where a training config asks for `kernels="triton"`. They are tested in Triton's interpreter and compiled
for an H100, but they have never run on a GPU: their speed is unmeasured. `make bench-gpu` measures it.

`sae_core.kernels` returns as many entries as are active. A step here has room for k·B of them and leaves the rest
empty: so no size depends on the data, and a CUDA graph can hold the whole step. Rows of `[batch, d_in]` and
dictionaries of `[d_sae, d_in]` are contiguous. All results are the same bits from run to run: sums are taken in a fixed
order, and only integers are added atomically.

On a machine without a GPU the kernels run on CPU tensors in Triton's interpreter, when TRITON_INTERPRET=1 is set before
Triton is imported; the tests do so.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

import torch
from torch import Tensor

HAS_TRITON = find_spec("triton") is not None
"""Triton comes with PyTorch's CUDA builds for Linux, and not with the others."""
MOST = 512
"""Most entries per row in a selection: their groups must fit into one program's registers."""

_enabled = False


def can_run_on(device: torch.device) -> bool:
    """True if these kernels can run on a device: CUDA, or any where Triton's interpreter is asked for."""
    return HAS_TRITON and (device.type == "cuda" or os.environ.get("TRITON_INTERPRET") == "1")


@contextmanager
def enabled() -> Iterator[None]:
    """Let the functions of `sae_core.kernels` use these kernels on CUDA tensors, in the whole process.

    It is a variable of the process, because PyTorch runs the backward pass of CUDA tensors in threads of its own.
    """
    global _enabled
    before, _enabled = _enabled, True
    try:
        yield
    finally:
        _enabled = before


def runs_on(*tensors: Tensor) -> bool:
    """True if the kernels of this package are to do the work: they are enabled, and the tensors are CUDA's."""
    return _enabled and HAS_TRITON and all(tensor.is_cuda for tensor in tensors)


def selects(pre: Tensor, k: int = 0) -> bool:
    """True if they are to select from these pre-activations; `k` is the number per row, if rows are selected from."""
    return runs_on(pre) and pre.dtype in (torch.float32, torch.bfloat16) and k <= MOST
