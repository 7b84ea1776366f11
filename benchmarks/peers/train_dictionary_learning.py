"""dictionary_learning's trainers."""

from typing import Any

import protocol
from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
from dictionary_learning.trainers.top_k import TopKTrainer
from torch import Tensor

KINDS = {"topk": TopKTrainer, "batchtopk": BatchTopKTrainer}


class DictionaryLearning:
    def __init__(self, settings: dict[str, Any], train: Tensor) -> None:
        same = settings["recipe"] == "same"
        # As `trainSAE(normalize_activations=True)`: a mean squared norm of 1. Where the work is to be the same, the
        # scale is that of the others too, a mean norm of √d_in.
        norms = train.norm(dim=1)
        self.scale = float(train.shape[1] ** 0.5 / norms.mean()) if same else float(1 / norms.square().mean().sqrt())
        # Its default, 1,000 steps, is refused in a run that is shorter than that.
        schedule = {"warmup_steps": min(1000, settings["warmup_steps"])}
        if same:
            schedule = {
                "lr": settings["lr"],
                "warmup_steps": settings["warmup_steps"],
                "decay_start": settings["steps"] - settings["decay_steps"],
            }
        self.batchtopk = settings["architecture"] == "batchtopk"
        self.trainer = KINDS[settings["architecture"]](
            steps=settings["steps"],
            activation_dim=train.shape[1],
            dict_size=settings["d_sae"],
            k=settings["k"],
            layer=9,
            lm_name="SmolLM2-135M",
            seed=protocol.SEED,
            device="cpu",
            **schedule,
        )
        self.done = 0

    def step(self, x: Tensor) -> None:
        self.trainer.update(self.done, x * self.scale)
        self.done += 1

    def reconstruct(self, x: Tensor) -> tuple[Tensor, Tensor]:
        sae = self.trainer.ae
        features = sae.encode(x * self.scale, use_threshold=False)
        return sae.decode(features) / self.scale, features


if __name__ == "__main__":
    settings = protocol.arguments()
    train, _ = protocol.load(settings)
    protocol.train_and_answer(DictionaryLearning(settings, train), settings, ["dictionary-learning", "numpy"])
