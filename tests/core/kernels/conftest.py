"""Where there is no GPU, Triton's interpreter runs the kernels: `tests/conftest.py` asks for it, before any import."""

import os

import pytest
import torch

HAS_GPU = torch.cuda.is_available()


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    """Where kernels run: in the interpreter, or on a GPU."""
    if request.param == "cuda" and not HAS_GPU:
        pytest.skip("needs an NVIDIA GPU")
    if request.param == "cpu" and HAS_GPU:
        pytest.skip("the GPU runs the kernels here, not the interpreter")
    assert HAS_GPU or os.environ.get("TRITON_INTERPRET") == "1", "set before Triton is imported"
    return torch.device(request.param)
