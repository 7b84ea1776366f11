"""Benchmark of training: steps on activations in memory, compared with the encoder's product alone.

The product x W_enc of a batch is the floor: every exact method computes it. It is timed in turn with the steps, since a
machine that others use is never the same twice.
"""

import time
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from app.bench.bench_inputs import HOOK, Notify, load, scratch, spread
from app.settings import Settings
from sae_core.activations import ActivationCache
from sae_core.memory import reuse_freed_memory
from sae_core.saes import SAE
from sae_core.training import TrainingConfig
from sae_core.training.state import TrainingState
from sae_core.training.step import take_step

ROUNDS = 7
STEPS = 8
"""Training steps per round; there are half as many products."""


def run(
    settings: Settings, architecture: str, width: int, k: int, batch: int, tokens: int, notify: Notify
) -> dict[str, Any]:
    """Train on the demo's activations and time it.

    Raises:
        SAEError: the training makes no sense, or the disk is too small.
    """
    steps = 4 * STEPS + ROUNDS * STEPS
    config = TrainingConfig(architecture=architecture, d_sae=width, k=k, batch_size=batch, samples=steps * batch)
    config = config.resolved()
    inputs = load(settings, tokens, notify)
    d_in = inputs.model.d_in(HOOK)
    with scratch(settings, ActivationCache.size(inputs.sequences, d_in), "The activations") as folder:
        notify(f"Running the model over {inputs.sequences.n_counted:,} tokens")
        cache = ActivationCache.build(inputs.model, HOOK, inputs.sequences, folder / "activations")
        batches = list(islice(cache.batches(batch, seed=0), max(2, cache.train_tokens // batch)))
        notify(f"Training {width:,} features, {ROUNDS} rounds of {STEPS} steps")
        state, ours, floor = rates(config, batches, folder / "training", inputs.model.device)
        explained = explained_variance(state, torch.cat(list(cache.validation(batch))))
    rate, product = spread(ours), spread(floor)
    return {
        "architecture": architecture,
        "d_in": d_in,
        "d_sae": width,
        "k": k,
        "batch": batch,
        "samples_per_s": round(rate["median"]),
        "floor_samples_per_s": round(product["median"]),
        "ratio": round(rate["median"] / product["median"], 3),
        "explained_variance": round(explained, 4),
        "samples": state.samples,
        "spread": {"samples_per_s": rate, "floor_samples_per_s": product},
    }


def rates(
    config: TrainingConfig,
    batches: list[Float[Tensor, "batch d_in"]],
    folder: Path,
    device: torch.device,
    *,
    rounds: int = ROUNDS,
    steps: int = STEPS,
) -> tuple[TrainingState, list[float], list[float]]:
    """Train; return the state and, per round, the samples per second of steps and of the encoder's product."""
    reuse_freed_memory()  # as training does
    state = TrainingState.create(config, batches[0].shape[1], folder, device)
    state.sae.initialise(torch.cat(batches[:8]), config.seed)
    for step in range(4 * steps):
        take_step(state, batches[step % len(batches)])
    ours, floor = [], []
    for _ in range(rounds):
        floor.append(_rate(lambda each: _product(state.sae, each), batches, max(1, steps // 2)))
        ours.append(_rate(lambda each: take_step(state, each), batches, steps))
    return state, ours, floor


def _rate(work: Any, batches: list[Tensor], times: int) -> float:
    """Return samples per second."""
    began = time.perf_counter()
    for number in range(times):
        work(batches[number % len(batches)])
    if batches[0].is_cuda:
        torch.cuda.synchronize()
    return times * len(batches[0]) / (time.perf_counter() - began)


@torch.no_grad()
def _product(sae: SAE, x: Float[Tensor, "batch d_in"]) -> None:
    torch.addmm(sae.b_enc, x, sae.W_enc)


@torch.no_grad()
def explained_variance(state: TrainingState, x: Float[Tensor, "token d_in"]) -> float:
    """Return 1 − E‖x − x̂‖² / E‖x − μ‖² of held-out activations, in the inference form."""
    sae = state.sae.for_inference()
    errors = [(part - sae(part)).square().sum() for part in torch.split(x, 2048)]
    return 1 - float(torch.stack(errors).sum() / (x - x.mean(dim=0)).square().sum())
