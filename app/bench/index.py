"""Benchmark of indexing: from tokens to statistics of all features, compared with the model's forward alone.

Both are done over the same tokens, in turn. Publishing to Postgres is not in it.
"""

import time
from pathlib import Path
from shutil import rmtree
from typing import Any

import torch

from app.bench.bench_inputs import HOOK, BenchInputs, Notify, chosen, load, scratch, spread
from app.bench.memory import forget_peak, peak_rss_mb, rss_mb
from app.settings import Settings
from sae_core.activations import ActivationCache
from sae_core.saes import SAE
from sae_core.statistics.compute import compute_statistics
from sae_core.store.activation_store import build_store
from sae_core.training import TrainingConfig, train

BATCH = 16
"""Sequences per forward pass."""
TRAINED_ON = 32_768
"""Tokens that the SAE is trained on, because a random one is not sparse."""


def run(settings: Settings, width: int, k: int, tokens: int, rounds: int, notify: Notify) -> dict[str, Any]:
    """Index the demo's corpus and time it.

    Raises:
        SAEError: the training makes no sense, or the disk is too small.
    """
    inputs = load(settings, tokens, notify)
    inputs.model.activations(torch.from_numpy(inputs.sequences.token_ids[:BATCH]).long(), HOOK)
    of_model = rss_mb()
    size = 2 * ActivationCache.size(inputs.sequences, inputs.model.d_in(HOOK))
    with scratch(settings, size, "Activations and their store") as folder:
        notify(f"Training an SAE of {width:,} features")
        sae = _trained(inputs, width, k, folder)
        forget_peak()  # training is not measured
        ours, floor = [], []
        for number in range(rounds):
            floor.append(_forward(inputs))
            ours.append(_index(inputs, sae, folder / "index"))
            notify(f"Round {number + 1} of {rounds}: index {ours[-1]:.1f} s, forward alone {floor[-1]:.1f} s")
        peak = peak_rss_mb()
    counted = inputs.sequences.n_counted
    wall, forward = spread(ours), spread(floor)
    return {
        "tokens": counted,
        "features": width,
        "wall_s": round(wall["median"], 2),
        "tokens_per_s": round(counted / wall["median"]),
        "floor_tokens_per_s": round(counted / forward["median"]),
        "ratio": round(wall["median"] / forward["median"], 3),
        "model_rss_mb": round(of_model),
        "peak_rss_mb": round(peak),
        "over_model_mb": round(peak - of_model),
        "spread": {"wall_s": wall, "floor_s": forward},
    }


def _trained(inputs: BenchInputs, width: int, k: int, folder: Path) -> SAE:
    few = chosen(inputs.sequences, slice(TRAINED_ON // inputs.sequences.length))
    cache = ActivationCache.build(inputs.model, HOOK, few, folder / "few")
    config = TrainingConfig(d_sae=width, k=k, samples=8 * TRAINED_ON)
    return train(config, cache, folder / "training", device=inputs.model.device)


def _forward(inputs: BenchInputs) -> float:
    """Return the seconds of the model's forward up to the hook point."""
    token_ids = torch.from_numpy(inputs.sequences.token_ids).long()
    began = time.perf_counter()
    for batch in torch.split(token_ids, BATCH):
        inputs.model.activations(batch, HOOK)
    return time.perf_counter() - began


def _index(inputs: BenchInputs, sae: SAE, folder: Path) -> float:
    """Return the seconds of forward, encoding and all statistics."""
    rmtree(folder, ignore_errors=True)
    began = time.perf_counter()
    cache = ActivationCache.build(inputs.model, HOOK, inputs.sequences, folder / "activations", batch_size=BATCH)
    store = build_store(sae, cache, inputs.sequences, folder / "store")
    model = inputs.model
    compute_statistics(store, inputs.sequences, sae, model.output_directions(), model.input_tokens(), seed=0)
    return time.perf_counter() - began
