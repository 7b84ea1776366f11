"""Triton kernels for NVIDIA GPUs, in fixed shapes and without host synchronisation, and a training step made of them.

Where `sae_core.kernels` gives as many entries as are active, a step here has room for k·B of them and leaves the rest
empty: then no size depends on the data, and a CUDA graph can hold the whole step. Rows of `[batch, d_in]` and
dictionaries of `[d_sae, d_in]` are contiguous. All results are the same bits from run to run: sums are taken in a fixed
order, and only integers are added atomically.

On a machine without a GPU the kernels run on CPU tensors in Triton's interpreter, when TRITON_INTERPRET=1 is set before
Triton is imported; the tests do so.
"""

from importlib.util import find_spec

import torch
from torch import Tensor

HAS_TRITON = find_spec("triton") is not None
"""Triton comes with PyTorch's CUDA builds for Linux, and not with the others."""
ENABLED = False
"""Whether the functions of `sae_core.kernels` leave CUDA tensors to these kernels. Off: they have been proven in
the interpreter and compiled for an H100, but never run on a GPU. `make bench-gpu` turns it on."""
MOST = 512
"""Most places of a row in a selection: their groups must fit into one program's registers."""


def runs_on(*tensors: Tensor) -> bool:
    """Whether the kernels of this package are to do the work: on CUDA tensors, where Triton is installed."""
    return ENABLED and HAS_TRITON and all(tensor.is_cuda for tensor in tensors)


def selects(pre: Tensor, k: int = 0) -> bool:
    """Whether they are to select from these pre-activations, at most `k` of a row where rows are selected from."""
    return runs_on(pre) and pre.dtype in (torch.float32, torch.bfloat16) and k <= MOST
