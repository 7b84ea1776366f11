"""How fast an index is: everything from tokens to statistics of all features, against the model's forward alone.

Both are done over the same tokens, in turn. Publishing to Postgres is not in it.
"""

import resource
import sys
import time
from pathlib import Path
from shutil import rmtree
from typing import Any

import torch

from app.bench.material import HOOK, Material, Say, load, scratch, spread
from app.settings import Settings
from sae_core.activations import ActivationCache
from sae_core.index.statistics import compute_statistics
from sae_core.index.store import build_store
from sae_core.saes import SAE
from sae_core.training import TrainingConfig, train

BATCH = 16
"""Sequences in a forward pass."""
TRAINED_ON = 32_768
"""Tokens that the SAE is trained on: a random one would not be sparse."""


def run(settings: Settings, width: int, k: int, tokens: int, rounds: int, say: Say) -> dict[str, Any]:
    """Index the demo's corpus and time it.

    Raises:
        SAEError: the training makes no sense, or the disk is too small.
    """
    material = load(settings, tokens, say)
    size = 2 * ActivationCache.size(material.sequences, material.model.d_in(HOOK))
    with scratch(settings, size, "Activations and their store") as folder:
        say(f"Training an SAE of {width:,} features")
        sae = _trained(settings, width, k, folder, say)
        before = _peak_rss_mb()
        ours, floor = [], []
        for number in range(rounds):
            floor.append(_forward(material))
            ours.append(_index(material, sae, folder / "index"))
            say(f"Round {number + 1} of {rounds}: index {ours[-1]:.1f} s, forward alone {floor[-1]:.1f} s")
    counted = material.sequences.n_counted
    wall, forward = spread(ours), spread(floor)
    return {
        "tokens": counted,
        "features": width,
        "wall_s": round(wall["median"], 2),
        "tokens_per_s": round(counted / wall["median"]),
        "floor_tokens_per_s": round(counted / forward["median"]),
        "ratio": round(wall["median"] / forward["median"], 3),
        "peak_rss_mb": round(_peak_rss_mb()),
        "rss_before_mb": round(before),
        "spread": {"wall_s": wall, "floor_s": forward},
    }


def _trained(settings: Settings, width: int, k: int, folder: Path, say: Say) -> SAE:
    few = load(settings, TRAINED_ON, lambda _line: None)
    cache = ActivationCache.build(few.model, HOOK, few.sequences, folder / "few")
    config = TrainingConfig(d_sae=width, k=k, samples=8 * TRAINED_ON)
    return train(config, cache, folder / "training", device=few.model.device)


def _forward(material: Material) -> float:
    """Seconds of the model's forward to the hook point alone."""
    token_ids = torch.from_numpy(material.sequences.token_ids).long()
    began = time.perf_counter()
    for batch in torch.split(token_ids, BATCH):
        material.model.activations(batch, HOOK)
    return time.perf_counter() - began


def _index(material: Material, sae: SAE, folder: Path) -> float:
    """Seconds of forward, encoding and all statistics."""
    rmtree(folder, ignore_errors=True)
    began = time.perf_counter()
    cache = ActivationCache.build(material.model, HOOK, material.sequences, folder / "activations", batch_size=BATCH)
    store = build_store(sae, cache, material.sequences, folder / "store")
    compute_statistics(store, material.sequences, sae, material.model.output_directions(), seed=0)
    return time.perf_counter() - began


def _peak_rss_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)
