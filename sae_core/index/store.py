"""The activation store: every non-zero feature activation of a corpus, on disk, sorted by feature."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from sae_core.progress import Progress, silent

if TYPE_CHECKING:
    from sae_core.corpora import Sequences
    from sae_core.saes.base import SAE


class ActivationShards(Protocol):
    """Activations of a corpus in shards of consecutive sequences, each made only when asked for."""

    n_shards: int

    def shard(self, i: int) -> tuple[slice, Float[Tensor, "sequence position d_in"]]:
        """Give the sequence numbers and the activations of shard `i`."""


class ActivationStore:
    """Non-zero activations of all features on a corpus, opened for reading."""

    @classmethod
    def open(cls, folder: Path) -> ActivationStore:
        """Open a finished store and check it against its manifest."""
        raise NotImplementedError


def build_store(
    sae: SAE, shards: ActivationShards, sequences: Sequences, folder: Path, *, progress: Progress = silent
) -> ActivationStore:
    """Encode every counted token and store the non-zero activations; progress is in counted tokens."""
    raise NotImplementedError
