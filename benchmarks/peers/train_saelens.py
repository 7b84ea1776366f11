"""SAELens' training SAEs, stepped by its own trainer."""

from typing import Any

import protocol
from sae_lens import (
    BatchTopKTrainingSAE,
    BatchTopKTrainingSAEConfig,
    JumpReLUTrainingSAE,
    JumpReLUTrainingSAEConfig,
    StandardTrainingSAE,
    StandardTrainingSAEConfig,
    TopKTrainingSAE,
    TopKTrainingSAEConfig,
)
from sae_lens.config import SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer
from torch import Tensor

KINDS = {
    "topk": (TopKTrainingSAE, TopKTrainingSAEConfig),
    "batchtopk": (BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig),
    "standard": (StandardTrainingSAE, StandardTrainingSAEConfig),
    "jumprelu": (JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig),
}
NORM_BATCHES = 32
"""An epoch; its default of 1,000 would read the same rows 31 times."""


class SAELens:
    def __init__(self, settings: dict[str, Any], train: Tensor) -> None:
        kind, config = KINDS[settings["architecture"]]
        own = {"k": settings["k"]} if settings["architecture"].endswith("topk") else {}
        sae = kind(
            config(
                d_in=train.shape[1],
                d_sae=settings["d_sae"],
                normalize_activations="expected_average_only_in",
                **own,
            )
        )
        schedule = {}
        if settings["recipe"] == "same":
            schedule = {
                "lr": settings["lr"],
                "lr_warm_up_steps": settings["warmup_steps"],
                "lr_decay_steps": settings["decay_steps"],
                "lr_end": settings["lr"],  # where the decay to zero begins
            }
        stream = protocol.batches(train, settings["batch_size"])
        self.trainer = SAETrainer(
            cfg=SAETrainerConfig(
                total_training_samples=settings["samples"],
                train_batch_size_samples=settings["batch_size"],
                **{"lr_end": SAETrainerConfig.lr, **schedule},  # it must be there; a constant rate never reads it
            ),
            sae=sae,
            data_provider=stream,
        )
        # As `fit` does before its loop.
        self.trainer.activation_scaler.estimate_scaling_factor(train.shape[1], stream, NORM_BATCHES)

    def step(self, x: Tensor) -> None:
        # As `fit` does in its loop, without progress bar, logging and checkpoints.
        self.trainer.maybe_reset_sparsity()
        self.trainer.step(x)
        self.trainer.n_training_steps += 1

    def reconstruct(self, x: Tensor) -> tuple[Tensor, Tensor]:
        sae, scaler = self.trainer.sae, self.trainer.activation_scaler
        features = sae.encode_with_hidden_pre(scaler.scale(x))[0]
        return scaler.unscale(sae.decode(features)), features


if __name__ == "__main__":
    settings = protocol.arguments()
    train, _ = protocol.load(settings)
    protocol.train_and_answer(SAELens(settings, train), settings, ["sae-lens", "numpy"])
