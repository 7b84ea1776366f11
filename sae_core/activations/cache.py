"""Activations on disk, in shards of consecutive sequences."""

from collections.abc import Iterator
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from sae_core.corpora import Sequences
from sae_core.models import HookPoint, LanguageModel
from sae_core.progress import Progress, silent


class ActivationCache:
    """Float32 activations of every position of every sequence."""

    folder: Path
    d_in: int
    n_shards: int
    n_counted: int
    train_tokens: int
    validation_tokens: int

    @classmethod
    def build(
        cls,
        model: LanguageModel,
        hook: HookPoint,
        sequences: Sequences,
        folder: Path,
        *,
        batch_size: int = 16,
        shard_sequences: int = 64,
        progress: Progress = silent,
    ) -> "ActivationCache":
        """Run the model over `sequences` and keep its activations at `hook`; complete shards are reused."""
        raise NotImplementedError

    @classmethod
    def open(cls, folder: Path, sequences: Sequences) -> "ActivationCache":
        """Open a finished cache."""
        raise NotImplementedError

    def shard(self, index: int) -> tuple[slice, Float[Tensor, "sequence position d_in"]]:
        """The numbers of the sequences of one shard, and their activations."""
        raise NotImplementedError

    def batches(self, batch_size: int, *, seed: int, skip: int = 0) -> Iterator[Float[Tensor, "batch d_in"]]:
        """Endless batches of counted training tokens, shuffled over the whole cache."""
        raise NotImplementedError

    def validation(self, batch_size: int) -> Iterator[Float[Tensor, "batch d_in"]]:
        """Counted held-out tokens, once, in order."""
        raise NotImplementedError
