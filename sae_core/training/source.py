"""The interface of what training reads: a source of activations."""

from collections.abc import Iterator
from typing import Protocol

from jaxtyping import Float
from torch import Tensor


class ActivationSource(Protocol):
    """A cache of activations on disk, or a model that computes them as needed.

    For a transcoder a row is its input followed by its target.
    """

    @property
    def d_in(self) -> int:
        """Width of the activations that an SAE reads."""

    @property
    def d_out(self) -> int | None:
        """Width of the activations that a transcoder reconstructs; None if the rows are for autoencoders."""

    def batches(
        self, batch_size: int, *, seed: int, skip: int = 0, part: slice = slice(None)
    ) -> Iterator[Float[Tensor, "batch d_in+d_out"]]:
        """Yield endless shuffled batches, the same for the same seed.

        Args:
            batch_size: rows of a batch, over all processes.
            seed: of the order.
            skip: number of batches to leave out at the start.
            part: rows of each batch to yield.
        """

    def validation(self, batch_size: int) -> Iterator[Float[Tensor, "batch d_in+d_out"]]:
        """Yield the held-out rows once."""
