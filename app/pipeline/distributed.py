"""Training by the processes that `torchrun` starts: `torchrun --nproc-per-node 4 -m app.cli train …`.

The first process does the run, as it would alone. The others wait for its training request, then take part in the
training. All of them see the same artifacts, on one disk or a shared one.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist

from app.object_store import ObjectStore
from sae_core.activations import ActivationCache
from sae_core.corpora import Sequences
from sae_core.errors import SAEError
from sae_core.parallel import process_grid
from sae_core.progress import Progress, silent
from sae_core.saes import SAE
from sae_core.training import ActivationSource, TrainingConfig, train_together
from sae_core.training.curves import TensorBoard, Tracker, WeightsAndBiases


@dataclass(frozen=True)
class TrainingRequest:
    """A training that all processes take part in."""

    configs: Sequence[TrainingConfig]
    folders: Sequence[Path]
    device: str
    sequences: Path
    activations: Path | None
    """Folder of the activations; None if one process computes them as it needs them."""


def size() -> int:
    """Return the number of processes that were started together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def require_one_hook(hooks: int) -> None:
    """Refuse a training at several hook points by several processes, which take part in one training.

    Raises:
        SAEError: there are several of both.
    """
    if hooks > 1 and size() > 1:
        raise SAEError("Several processes train at one hook point. Give one `hook`, or start one process.")


def require_common_files(store: ObjectStore | None) -> None:
    """Refuse a training by processes of several machines that have no folder in common.

    Raises:
        SAEError: their artifacts are in an object store, of which each machine has a part.
    """
    if store is not None and size() > int(os.environ.get("LOCAL_WORLD_SIZE", str(size()))):
        raise SAEError(
            "Processes of several machines train from a folder that all of them see. Set SEESAE_ARTIFACTS to one, or "
            "start the processes on one machine."
        )


def run_worker_rank(feature_shards: int) -> None:
    """Wait for the first process' request, and take part in the training.

    Raises:
        SAEError: the training failed, as the first process says too.
    """
    with process_grid(feature_shards) as grid:
        requests: list[TrainingRequest | None] = [None]
        dist.broadcast_object_list(requests, src=0)
        if (request := requests[0]) is not None:
            assert request.activations is not None, "a stream is refused before"
            source = ActivationCache.open(request.activations, Sequences.load(request.sequences))
            train_together(request.configs, source, request.folders, device=request.device, grid=grid)


def release_workers(feature_shards: int) -> None:
    """Let the other processes end, because there is nothing to train."""
    if size() > 1:
        with process_grid(feature_shards):
            dist.broadcast_object_list([None], src=0)


def train(
    request: TrainingRequest,
    source: ActivationSource,
    *,
    feature_shards: int,
    names: Sequence[str] = (),
    trackers: Sequence[Sequence[Tracker]] = (),
    progress: Progress = silent,
) -> list[SAE]:
    """Train with all processes; what is left out of the request is the first process' own affair.

    Raises:
        SAEError: activations are streamed, but there are several processes; else as `train_together`.
    """
    if size() > 1 and request.activations is None:
        raise SAEError("Activations are streamed to one process only. Leave `stream` out, or start one process.")
    with process_grid(feature_shards) as grid:
        if size() > 1:
            dist.broadcast_object_list([request], src=0)
        return train_together(
            request.configs,
            source,
            request.folders,
            device=request.device,
            names=names,
            trackers=trackers,
            progress=progress,
            grid=grid,
        )


def trackers(names: Sequence[str], slug: str, config: dict[str, Any], folder: Path) -> list[Tracker]:
    """Return the trackers of one SAE's curves, by the names that `seesae train --track` takes.

    Raises:
        SAEError: one of them is not installed.
    """
    made: list[Tracker] = []
    if "tensorboard" in names:
        made.append(TensorBoard(folder / "tensorboard" / slug))
    if "wandb" in names:
        made.append(WeightsAndBiases(slug, config))
    return made
