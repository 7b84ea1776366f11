"""A child's side of the comparison: it reads commands from its standard input and answers each with one line of JSON.

Imported by scripts that run in the peers' own environments, so it needs nothing but PyTorch and safetensors.
"""

import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from safetensors.torch import load_file
from torch import Tensor

HELD_OUT_BATCH = 2048
SEED = 0


class Contestant(Protocol):
    """One trainer with one SAE."""

    def step(self, x: Tensor) -> None:
        """One training step on a batch [batch, d_in]."""

    def reconstruct(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstruction of x, in its units, and the feature activations, selected as in training."""


def arguments() -> dict[str, Any]:
    """Return the parent's settings: one JSON object as the only argument."""
    settings: dict[str, Any] = json.loads(sys.argv[1])
    torch.set_num_threads(settings["threads"])
    torch.manual_seed(SEED)
    return settings


def load(settings: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Activations to train on and those held out, float32, in memory."""
    tensors = load_file(settings["activations"])
    return tensors["train"].float(), tensors["held_out"].float()


def batches(train: Tensor, size: int) -> Iterator[Tensor]:
    """Endless batches in an order that is the same for every child."""
    generator = torch.Generator().manual_seed(SEED)
    while True:
        order = torch.randperm(len(train), generator=generator)
        for start in range(0, len(train) - size + 1, size):
            yield train[order[start : start + size]]


@torch.no_grad()
def evaluate(contestant: Contestant, held_out: Tensor) -> dict[str, float]:
    """Explained variance 1 − Σ‖x−x̂‖² / Σ‖x−μ‖², and mean active features, over all held-out rows."""
    errors = active = 0.0
    for x in held_out.split(HELD_OUT_BATCH):
        reconstruction, features = contestant.reconstruct(x)
        errors += float((x - reconstruction).double().square().sum())
        active += float((features != 0).sum())
    variance = float((held_out - held_out.mean(dim=0)).double().square().sum())
    return {"explained_variance": 1 - errors / variance, "l0": active / len(held_out)}


def train_and_answer(contestant: Contestant, settings: dict[str, Any], packages: list[str]) -> None:
    """Answer `go N` with the rate of N steps, and `evaluate` with the quality so far."""
    train, held_out = load(settings)
    stream = batches(train, settings["batch_size"])

    def go(steps: int) -> dict[str, float]:
        prepared = [next(stream) for _ in range(steps)]  # gathering rows is nobody's training step
        start = time.perf_counter()
        for x in prepared:
            contestant.step(x)
        seconds = time.perf_counter() - start
        return {"seconds": seconds, "rate": steps * settings["batch_size"] / seconds}

    answer({"go": go, "evaluate": lambda: evaluate(contestant, held_out)}, packages)


def answer(commands: dict[str, Callable[..., Any]], packages: list[str]) -> None:
    """Report readiness and the versions, then serve commands until the input ends."""
    # What libraries print goes to the log; the pipe is for answers alone.
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def send(message: Any) -> None:
        pipe.write(json.dumps(message) + "\n")
        pipe.flush()

    versions = {name: importlib.metadata.version(name) for name in ["torch", *packages]}
    send({"versions": {**versions, "python": sys.version.split()[0]}, "threads": torch.get_num_threads()})
    for line in sys.stdin:
        name, *values = line.split()
        send(commands[name](*map(int, values)))
