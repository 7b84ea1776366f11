"""Compile all kernels of a GPU step for an H100, on a machine that need not have one; print what each one takes.

A step is taken on CPU tensors, with launches that only compile. Triton must not be in its interpreter:
`TRITON_INTERPRET=0 python -m tests.core.kernels.compiled bf16 768 4096 32`.
"""

import json
import re
import subprocess
import sys
from pathlib import Path
from tempfile import NamedTemporaryFile

import torch
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from sae_core import kernels
from sae_core.kernels import gpu
from sae_core.training.config import TrainingConfig
from sae_core.training.gpu_step import GpuStep
from sae_core.training.state import TrainingState

BATCH = 256


class H100:
    """As much of a driver as compiling asks for."""

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0


def stack(cubin):
    """Bytes of a thread's stack, where registers that are not enough spill to."""
    with NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(cubin)
        command = [knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return int(re.search(r"STACK:(\d+)", usage).group(1))


def compile_only(found):
    launch = JITFunction.run

    def run(self, *args, grid, warmup, **kwargs):
        kernel = launch(self, *args, grid=grid, warmup=True, **kwargs)
        if kernel.hash in found:
            return kernel
        found[kernel.hash] = {
            "name": self.__name__,
            "shared": kernel.metadata.shared,
            "tensor_cores": bool(re.search(r"wgmma\.mma_async", kernel.asm["ptx"])),
            "stack": stack(kernel.asm["cubin"]),
        }
        return kernel

    return run


def main(precision, *sizes):
    d_in, d_sae, k = (int(size) for size in sizes)
    found = {}
    driver.set_active(H100())
    JITFunction.run = compile_only(found)
    for architecture in ("topk", "batchtopk"):
        config = TrainingConfig(
            architecture=architecture, d_sae=d_sae, k=k, batch_size=BATCH, samples=BATCH, precision=precision
        ).resolved()
        state = TrainingState.create(config, d_in, Path(), torch.device("cpu"))
        GpuStep(state)(torch.zeros(BATCH, d_in, dtype=torch.bfloat16))
    gpu.runs_on = lambda *tensors: True
    pre, W_dec = torch.ones(8, d_sae), torch.ones(d_sae, d_in, requires_grad=True)
    kernels.batch_topk(pre, 8 * k)
    kernels.topk(pre, min(gpu.MOST, d_sae))
    gpu.selects = lambda *_: False
    selection = kernels.topk(pre, k)
    kernels.decode(selection.values(pre).requires_grad_(), W_dec, selection).sum().backward()
    print(json.dumps(list(found.values())))


if __name__ == "__main__":
    main(*sys.argv[1:])
