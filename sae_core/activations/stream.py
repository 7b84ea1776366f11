"""Activations without a disk: the model runs as they are needed."""

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from sae_core.activations.order import permutation
from sae_core.corpora import Sequences
from sae_core.errors import ArtifactError
from sae_core.models import HookPoint, LanguageModel
from sae_core.progress import Progress, silent


class ActivationStream:
    """The training interface of `ActivationCache`, from a running model and a buffer in memory.

    Each epoch takes the training sequences in a new random order. The buffer is filled with the counted tokens of as
    many of them as it holds, given out in random order, and filled again. What comes when depends on the seed, the
    batch size and the size of the buffer alone; activations stay on the model's device.
    """

    d_in: int
    """Width of what an SAE reads."""
    d_out: int | None
    """Width of what a transcoder is to reconstruct, which follows in each row; None where there is nothing."""
    train_tokens: int
    """Counted tokens to train on."""
    validation_tokens: int
    """Counted tokens that are held out."""
    buffer_bytes: int
    """Maximum size of the buffer; the order of batches depends on it."""

    def __init__(
        self,
        model: LanguageModel,
        hook: HookPoint,
        sequences: Sequences,
        *,
        target: HookPoint | None = None,
        buffer_bytes: int = 2**30,
        batch_size: int = 16,
        progress: Progress = silent,
    ) -> None:
        """Read activations of `sequences` at `hook`, with `batch_size` sequences in one forward pass.

        Args:
            model: model to run.
            hook: point to read.
            sequences: tokens to run it on.
            target: point that a transcoder is to reconstruct, read in the same pass of the model.
            buffer_bytes: what the activations that are held at any time take at most, the batch that is being given
                out included; what the model itself needs for its forward pass comes on top.
            batch_size: sequences in one forward pass.
            progress: gets counted tokens in the buffer, and how many it will hold, whenever it is being filled.

        Raises:
            ModelError: the model has no such hook point.
            ArtifactError: no sequence is there to train on.
        """
        self.d_in = model.d_in(hook)
        self.d_out = None if target is None else model.d_in(target)
        self._width = self.d_in + (self.d_out or 0)
        self._model, self._sequences = model, sequences
        self._hooks = [hook] if target is None else [hook, target]
        self._batch_size, self._progress = batch_size, progress
        self._counts = sequences.counted.sum(axis=1)
        self._training = np.flatnonzero(~sequences.is_validation() & (self._counts > 0))
        self._validation = np.flatnonzero(sequences.is_validation())
        self.train_tokens = int(self._counts[self._training].sum())
        self.validation_tokens = int(self._counts[self._validation].sum())
        self.buffer_bytes = buffer_bytes
        if self.train_tokens == 0:
            raise ArtifactError("There are no tokens to train on. Use a larger corpus.")

    def batches(
        self, batch_size: int, *, seed: int, skip: int = 0, part: slice = slice(None)
    ) -> Iterator[Float[Tensor, "batch d_in+d_out"]]:
        """Yield endless batches of counted training tokens, of each only the rows of `part`; equal seed, equal batches.

        To leave out the first `skip` batches, the model runs over no more than one buffer of them.

        Raises:
            ArtifactError: the buffer does not hold three batches and a sequence.
        """
        epoch, offset = divmod(skip * batch_size, self.train_tokens)
        rest = self._empty(0)
        while True:
            for number, fill in enumerate(self._fills(batch_size, seed, epoch)):
                rows = int(self._counts[fill].sum())
                if offset >= rows:
                    offset -= rows
                    continue
                buffer = self._run(fill, self._progress)
                order = torch.from_numpy(permutation(rows, seed, epoch, number)[offset:]).to(buffer.device)
                offset = 0
                while len(rest) + len(order) >= batch_size:
                    missing = batch_size - len(rest)
                    batch = torch.cat([rest, buffer[order[:missing]]])
                    rest, order = rest[:0].clone(), order[missing:]
                    yield batch[part]
                    del batch
                rest = torch.cat([rest, buffer[order]])
                del buffer  # before it is filled again
            epoch += 1

    def validation(self, batch_size: int) -> Iterator[Float[Tensor, "batch d_in+d_out"]]:
        """Yield the counted held-out tokens once, in order; the last batch may be smaller."""
        rest = self._empty(0)
        for start in range(0, len(self._validation), self._batch_size):
            rest = torch.cat([rest, self._run(self._validation[start : start + self._batch_size], silent)])
            whole = len(rest) // batch_size * batch_size
            for first in range(0, whole, batch_size):
                yield rest[first : first + batch_size]
            rest = rest[whole:]
        if len(rest):
            yield rest

    def _empty(self, rows: int) -> Float[Tensor, "rows d_in+d_out"]:
        return torch.empty((rows, self._width), device=self._model.device)

    def _fills(self, batch_size: int, seed: int, epoch: int) -> Iterator[Int64[np.ndarray, "sequence"]]:
        """Yield the sequences of one epoch, in random order, as many at a time as the buffer holds."""
        # Beside it there are, at most, a batch that its reader holds, and two that are being joined to the next.
        room = self.buffer_bytes // (4 * self._width) - 3 * batch_size
        if room < self._sequences.length:
            needed = 4 * self._width * (3 * batch_size + self._sequences.length)
            raise ArtifactError(
                f"A buffer of {self.buffer_bytes / 1e6:,.1f} MB does not hold three batches of {batch_size:,} "
                f"activations and a sequence. Give it at least {needed / 1e6:,.1f} MB, or take smaller batches."
            )
        order = self._training[permutation(len(self._training), seed, epoch)]
        ends = np.cumsum(self._counts[order])
        start = 0
        while start < len(order):
            before = ends[start - 1] if start else 0
            stop = int(np.searchsorted(ends, before + room, side="right"))
            yield order[start:stop]
            start = stop

    def _run(self, numbers: Int64[np.ndarray, "sequence"], progress: Progress) -> Float[Tensor, "token d_in+d_out"]:
        """Return the activations of the counted tokens of some sequences, in order."""
        total = int(self._counts[numbers].sum())
        activations = self._empty(total)
        done = 0
        for start in range(0, len(numbers), self._batch_size):
            batch = numbers[start : start + self._batch_size]
            token_ids = torch.from_numpy(self._sequences.token_ids[batch]).long()
            counted = torch.from_numpy(self._sequences.counted[batch]).to(self._model.device)
            of_batch = self._model.activations(token_ids, *self._hooks)[counted]
            activations[done : done + len(of_batch)] = of_batch
            done += len(of_batch)
            del of_batch
            progress(done, total)
        return activations
