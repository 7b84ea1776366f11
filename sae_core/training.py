"""Train an SAE: the recipe, the loop, and how it resumes."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from sae_core.progress import Progress, silent
from sae_core.saes import SAE


class ActivationSource(Protocol):
    """Where activations come from: a cache on disk, or a model that runs as needed."""

    @property
    def d_in(self) -> int:
        """Width of the activations."""

    def batches(self, batch_size: int, *, seed: int, skip: int = 0) -> Iterator[Float[Tensor, "batch d_in"]]:
        """Endless shuffled batches, the same for the same seed; `skip` batches are already consumed."""

    def validation(self, batch_size: int) -> Iterator[Float[Tensor, "batch d_in"]]:
        """Held-out activations, once."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """What is trained, and how."""

    architecture: str = "batchtopk"
    """A name in `sae_core.saes.ARCHITECTURES`."""
    d_sae: int = 4096
    """Number of features."""
    k: int = 32
    """Active features per token (TopK, BatchTopK)."""
    l1_coefficient: float = 5.0
    """λ of the sparsity penalty (Standard)."""
    samples: int = 2_000_000
    """Activations to train on in all; more than the source holds means several epochs."""
    batch_size: int = 2048
    """Activations in a step."""
    lr: float | None = None
    """Peak learning rate; None takes 2e-4 / sqrt(d_sae / 2^14)."""
    seed: int = 0
    """Of the start values and of the order of the data."""


def train(
    config: TrainingConfig,
    source: ActivationSource,
    folder: Path,
    *,
    device: torch.device | str = "auto",
    progress: Progress = silent,
) -> SAE:
    """Train an SAE and return its inference form; the caller saves it.

    `progress` gets samples done, samples in all, and about twice a second `loss`, `explained_variance`, `l0`,
    `dead_fraction`, `learning_rate` and `samples_per_s`.

    Raises:
        TrainingDiverged: the loss is no longer a number; the last good checkpoint is kept.
    """
    raise NotImplementedError
