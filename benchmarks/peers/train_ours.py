"""SeeSAE's training step, and the bare encoder product that is its floor."""

from pathlib import Path
from typing import Any

import protocol
import torch
from torch import Tensor

from sae_core import TrainingConfig
from sae_core.training.loop import START_SAMPLE
from sae_core.training.state import TrainingState
from sae_core.training.step import take_step


class Ours:
    def __init__(self, settings: dict[str, Any], sample: Tensor) -> None:
        same = settings["recipe"] == "same"
        config = TrainingConfig(
            architecture=settings["architecture"],
            d_sae=settings["d_sae"],
            k=settings["k"],
            samples=settings["samples"],
            batch_size=settings["batch_size"],
            seed=protocol.SEED,
            lr=settings["lr"] if same else None,
            # The peers call no feature dead within so short a run, so that their AuxK does nothing.
            dead_after=settings["samples"] + 1 if same else None,
        ).resolved()
        # Nothing is written there: only `train` makes checkpoints.
        self.state = TrainingState.create(config, sample.shape[1], Path("unused"), torch.device("cpu"))
        self.state.sae.initialise(sample, config.seed)

    def step(self, x: Tensor) -> None:
        take_step(self.state, x)

    def reconstruct(self, x: Tensor) -> tuple[Tensor, Tensor]:
        sae = self.state.sae
        features = sae.activate(sae.pre_activations(x * sae.input_scale))
        return (features @ sae.W_dec + sae.b_dec) / sae.output_scale, features


class Product(Ours):
    """Compute x W_enc and nothing else, which every exact method needs."""

    @torch.no_grad()
    def step(self, x: Tensor) -> None:
        x @ self.state.sae.W_enc


if __name__ == "__main__":
    settings = protocol.arguments()
    contestant = Product if settings["recipe"] == "product" else Ours
    sample, _ = protocol.load(settings)
    protocol.train_and_answer(contestant(settings, sample[:START_SAMPLE]), settings, ["seesae", "numpy"])
