"""SeeSAE's index: the statistics of all features on the dashboards' tokens."""

import tempfile
import time
from pathlib import Path

import protocol
import torch
from data import HOOK, material

from sae_core import ActivationCache, HookPoint
from sae_core.checkpoints import load_sae
from sae_core.corpora import Sequences
from sae_core.statistics.compute import compute_statistics
from sae_core.store.activation_store import build_store


def main() -> None:
    settings = protocol.arguments()
    folder = Path(settings["dashboard"])
    sequences = Sequences.load(folder / "sequences")
    cache = ActivationCache.open(folder / "cache", sequences)
    sae = load_sae(folder / settings["sae"])
    model, _ = material()
    hook = HookPoint.parse(HOOK)
    directions, tokens = model.output_directions(), model.input_tokens()

    @torch.no_grad()
    def go(repeats: int) -> dict[str, float]:
        """Repeat everything; return the seconds of one repeat."""
        parts = {"encode": 0.0, "statistics": 0.0, "forward": 0.0}
        for _ in range(repeats):
            with tempfile.TemporaryDirectory() as fresh:
                start = time.perf_counter()
                store = build_store(sae, cache, sequences, Path(fresh) / "store")
                encoded = time.perf_counter()
                compute_statistics(store, sequences, sae, directions, tokens)
                counted = time.perf_counter()
                ActivationCache.build(model, hook, sequences, Path(fresh) / "cache")
                forward = time.perf_counter()
            parts["encode"] += (encoded - start) / repeats
            parts["statistics"] += (counted - encoded) / repeats
            parts["forward"] += (forward - counted) / repeats
        work = sequences.n_counted * sae.d_sae
        without = parts["encode"] + parts["statistics"]
        return {
            **parts,
            "nonzeros_per_token": float(store.count.sum() / sequences.n_counted),
            "rate": work / without,
            "rate_with_forward": work / (without + parts["forward"]),
        }

    protocol.answer({"go": go}, ["seesae", "numpy"])


if __name__ == "__main__":
    main()
