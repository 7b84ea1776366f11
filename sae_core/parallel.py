"""Processes that train one SAE together.

They form a grid of two axes. Along `tokens` each process has its own part of a batch (data parallel). Along `features`
each has its own part of the dictionary (width sharded, for one that no single GPU holds). A single process has both
axes of size 1, on which every operation here returns its argument.

If a loss is a function of sums over processes, `all_reduce` gives each process the sum, and its gradient is that of the
process' own share; gradients are then summed once, over `tokens`, after the backward pass. `copy_to` and `all_reduce`
are Megatron's f and g (Shoeybi et al. 2019, arXiv:1909.08053, §3), applied to dictionaries.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh

from sae_core.errors import SAEError


@dataclass(frozen=True)
class Axis:
    """Processes along one axis of the grid."""

    group: Any = None
    """A `torch.distributed` process group; None where there is one process."""
    rank: int = 0
    size: int = 1

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Return the sum over processes; its gradient goes unchanged to this process' own share."""
        return tensor if self.size == 1 else _AllReduce.apply(tensor, self)  # type: ignore[no-untyped-call]

    def copy_to(self, tensor: Tensor) -> Tensor:
        """Return the tensor, which all processes hold; its gradient is the sum of theirs."""
        return tensor if self.size == 1 else _CopyTo.apply(tensor, self)  # type: ignore[no-untyped-call]

    def gather(self, tensor: Shaped[Tensor, "..."], dim: int = 0) -> Shaped[Tensor, "..."]:
        """Return the processes' tensors, of one shape, joined along `dim` by rank; without gradient."""
        if self.size == 1:
            return tensor
        parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(self.size)]
        dist.all_gather(parts, tensor.detach().contiguous(), group=self.group)
        return torch.cat(parts, dim=dim)

    def part(self, length: int) -> slice:
        """Return this process' part of `length` items; `length` is a multiple of `size`."""
        share = length // self.size
        return slice(self.rank * share, (self.rank + 1) * share)


@dataclass(frozen=True)
class Grid:
    """Position of this process among those that train one SAE."""

    tokens: Axis = field(default_factory=Axis)
    features: Axis = field(default_factory=Axis)

    @property
    def is_first(self) -> bool:
        """True for the one process that writes what all of them agree on."""
        return self.tokens.rank == 0 and self.features.rank == 0


SINGLE_PROCESS = Grid()


@contextmanager
def process_grid(feature_shards: int = 1) -> Iterator[Grid]:
    """Yield the grid of the processes that `torchrun` started, `feature_shards` per dictionary; else one process.

    Communication is by NCCL where there is CUDA, and by gloo elsewhere.

    Raises:
        SAEError: the number of processes is not a multiple of `feature_shards`.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world % feature_shards:
        raise SAEError(
            f"{world} processes cannot share dictionaries of {feature_shards} parts. "
            f"Start a multiple of {feature_shards} processes: torchrun --nproc-per-node {feature_shards} …"
        )
    if world == 1:
        yield SINGLE_PROCESS
        return
    device = "cpu"
    if torch.cuda.is_available():
        device = "cuda"
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    # The first process may prepare for hours before training; torchrun notices a process that died.
    dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=timedelta(days=7))
    mesh = init_device_mesh(device, (world // feature_shards, feature_shards), mesh_dim_names=("tokens", "features"))
    try:
        yield Grid(*(_axis(mesh, name) for name in ("tokens", "features")))
    finally:
        dist.destroy_process_group()


def _axis(mesh: Any, name: str) -> Axis:
    group = mesh.get_group(name)
    return Axis(group, dist.get_rank(group), dist.get_world_size(group))


class _AllReduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, axis: Axis) -> Tensor:
        total = tensor.detach().clone()
        dist.all_reduce(total, group=axis.group)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient, None


class _CopyTo(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, axis: Axis) -> Tensor:
        ctx.axis = axis
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        summed = gradient.clone()
        dist.all_reduce(summed, group=ctx.axis.group)
        return summed, None
