"""Activations without a disk: the model runs as they are needed."""

from collections.abc import Iterator

from jaxtyping import Float
from torch import Tensor

from sae_core.corpora import Sequences
from sae_core.models import HookPoint, LanguageModel
from sae_core.progress import Progress, silent


class ActivationStream:
    """The interface of `ActivationCache.batches` and `.validation`, from a running model."""

    d_in: int
    train_tokens: int
    validation_tokens: int

    def __init__(
        self,
        model: LanguageModel,
        hook: HookPoint,
        sequences: Sequences,
        *,
        buffer_bytes: int = 2**30,
        batch_size: int = 16,
        progress: Progress = silent,
    ) -> None:
        raise NotImplementedError

    def batches(self, batch_size: int, *, seed: int, skip: int = 0) -> Iterator[Float[Tensor, "batch d_in"]]:
        """Endless batches of counted training tokens, shuffled through the buffer."""
        raise NotImplementedError

    def validation(self, batch_size: int) -> Iterator[Float[Tensor, "batch d_in"]]:
        """Counted held-out tokens, once, in order."""
        raise NotImplementedError
