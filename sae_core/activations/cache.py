"""Activations on disk, in shards of consecutive sequences.

For a transcoder a row is the activations that it reads, followed by those that it is to reconstruct.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sae_core.activations.order import shuffled_batches, training_positions, validation_positions
from sae_core.corpora import Sequences
from sae_core.errors import ArtifactError
from sae_core.files import require_free_space, write_json
from sae_core.models import HookPoint, LanguageModel
from sae_core.progress import Progress, silent
from sae_core.shards import MakeShards, make_shards
from sae_core.tensor_files import write_tensors

_MANIFEST = "manifest.json"
_TENSOR = "activations"
_NAME = "model"
"""Key of the model's name, which people read; the hash of its weights says which it is."""


class ActivationCache:
    """Float32 activations of every position of every sequence, memory-mapped.

    Made by `build` or `open`.
    """

    folder: Path
    sequences: Sequences
    d_in: int
    """Width of what an SAE reads."""
    d_out: int | None
    """Width of what a transcoder is to reconstruct, which follows in each row; None where there is nothing."""
    n_shards: int
    n_counted: int
    """Counted tokens."""
    train_tokens: int
    """Counted tokens to train on."""
    validation_tokens: int
    """Counted tokens that are held out."""

    def __init__(self, folder: Path, sequences: Sequences, manifest: dict[str, Any]) -> None:
        self.folder = folder
        self.sequences = sequences
        self.d_in = manifest["d_in"]
        self.d_out = manifest.get("d_out")
        self._width = self.d_in + (self.d_out or 0)
        self.n_counted = sequences.n_counted
        self._shard_sequences: int = manifest["shard_sequences"]
        self.n_shards = _n_shards(sequences, self._shard_sequences)
        self._shards = [_open_shard(folder, index) for index in range(self.n_shards)]
        self._training = training_positions(sequences)
        self._validation = validation_positions(sequences)
        self.train_tokens = len(self._training)
        self.validation_tokens = len(self._validation)

    @classmethod
    def build(
        cls,
        model: LanguageModel,
        hook: HookPoint,
        sequences: Sequences,
        folder: Path,
        *,
        target: HookPoint | None = None,
        batch_size: int = 16,
        shard_sequences: int = 64,
        progress: Progress = silent,
    ) -> "ActivationCache":
        """Run the model over `sequences` and keep its activations at `hook`.

        Each shard is written whole or not at all, and a shard that is there is not computed again. So after an
        interruption the same call continues where the last one stopped, and ends with the same bytes. Processes that
        hold the folder's `sae_core.locks.folder_lock` meanwhile do not repeat each other's work.

        Args:
            model: model to run.
            hook: point to read.
            sequences: tokens to run it on.
            folder: holds one cache, and nothing else.
            target: point that a transcoder is to reconstruct, read in the same pass of the model.
            batch_size: sequences in one forward pass.
            shard_sequences: sequences in one file.
            progress: gets counted tokens done, and counted tokens in all.

        Raises:
            ArtifactError: the disk is too small, or `folder` holds activations of something else.
            ModelError: the model has no such hook point.
        """
        (built,) = cls.build_together(
            model,
            [(hook, target)],
            sequences,
            [folder],
            batch_size=batch_size,
            shard_sequences=shard_sequences,
            progress=progress,
        )
        return built

    @classmethod
    def build_together(
        cls,
        model: LanguageModel,
        points: Sequence[tuple[HookPoint, HookPoint | None]],
        sequences: Sequences,
        folders: Sequence[Path],
        *,
        batch_size: int = 16,
        shard_sequences: int = 64,
        make: MakeShards = make_shards,
        progress: Progress = silent,
    ) -> list["ActivationCache"]:
        """Build a cache for each hook and its target, or None, from one forward pass of each batch.

        The caches hold the same bytes as those that `build` makes one by one, and each continues where it stopped.
        With another `make`, other processes make `CacheShards` of the same folders meanwhile.
        """
        shards = CacheShards(model, points, sequences, folders, batch_size=batch_size, shard_sequences=shard_sequences)
        shards.prepare()
        make(shards, progress=progress)
        return shards.open()

    @classmethod
    def open(cls, folder: Path, sequences: Sequences) -> "ActivationCache":
        """Open a finished cache.

        Raises:
            ArtifactError: there is none, it is unfinished or damaged, or it was made from other sequences.
        """
        manifest = _read_manifest(folder)
        if manifest is None:
            raise ArtifactError(f"There is no activation cache at {folder}. Build it first.")
        if manifest["sequences_sha256"] != sequences.sha256:
            raise ArtifactError(f"The activations at {folder} are of other sequences. Build them again elsewhere.")
        return cls(folder, sequences, manifest)

    @staticmethod
    def size(sequences: Sequences, width: int, rows: int | None = None) -> int:
        """Bytes that a cache of activations of this width takes, or those of `rows` of the sequences."""
        return (len(sequences) if rows is None else rows) * sequences.length * width * 4

    def rows(self, index: int) -> range:
        """Return the numbers of one shard's sequences."""
        start = index * self._shard_sequences
        return range(start, min(start + self._shard_sequences, len(self.sequences)))

    def shard(self, index: int) -> tuple[slice, Float[Tensor, "sequence position d_in"]]:
        """Return the numbers of one shard's sequences, and what an SAE reads (memory-mapped: do not write to it).

        The file is mapped again for each call, so that its pages leave memory when the tensor does.
        """
        start = index * self._shard_sequences
        activations = _open_shard(self.folder, index)
        return slice(start, start + len(activations)), activations[..., : self.d_in]

    def batches(
        self, batch_size: int, *, seed: int, skip: int = 0, part: slice = slice(None)
    ) -> Iterator[Float[Tensor, "batch d_in+d_out"]]:
        """Yield endless batches of counted training tokens, in a random order of the whole cache, new in each epoch.

        The same seed gives the same batches. The first `skip` batches are left out without being read, and of each
        batch only the rows of `part` are.

        Raises:
            ArtifactError: no token is there to train on.
        """
        if self.train_tokens == 0:
            raise ArtifactError(f"The activations at {self.folder} hold no training tokens. Use a larger corpus.")
        for rows in shuffled_batches(self.train_tokens, batch_size, seed=seed, skip=skip):
            yield self._gather(self._training[rows[part]])

    def validation(self, batch_size: int) -> Iterator[Float[Tensor, "batch d_in+d_out"]]:
        """Yield the counted held-out tokens once, in order; the last batch may be smaller."""
        for start in range(0, self.validation_tokens, batch_size):
            yield self._gather(self._validation[start : start + batch_size])

    def of_sequences(self, numbers: Int64[np.ndarray, " sequence"]) -> Float[Tensor, "sequence position d_in+d_out"]:
        """Return the activations of every position of some sequences, in memory."""
        length = self.sequences.length
        positions = numbers[:, None] * length + np.arange(length)
        return self._gather(positions.ravel()).view(len(numbers), length, self._width)

    def _gather(self, positions: Int64[np.ndarray, "batch"]) -> Float[Tensor, "batch d_in+d_out"]:
        """Activations at flat positions, in their order."""
        shard_of, row_of = np.divmod(positions, self._shard_sequences * self.sequences.length)
        by_shard = np.argsort(shard_of, kind="stable")
        ends = np.cumsum(np.bincount(shard_of, minlength=self.n_shards))
        batch = torch.empty((len(positions), self._width))
        for index, end in enumerate(ends):
            chosen = by_shard[ends[index - 1] if index else 0 : end]
            if len(chosen):
                rows = self._shards[index].view(-1, self._width)
                batch[torch.from_numpy(chosen)] = rows[torch.from_numpy(row_of[chosen])]
        return batch


class CacheShards:
    """The shards of one cache or more, of several hook points that share the model's forward pass: a `ShardWork`."""

    def __init__(
        self,
        model: LanguageModel,
        points: Sequence[tuple[HookPoint, HookPoint | None]],
        sequences: Sequences,
        folders: Sequence[Path],
        *,
        batch_size: int = 16,
        shard_sequences: int = 64,
    ) -> None:
        """Name the shards; arguments as for `ActivationCache.build_together`."""
        self._model, self._points, self._sequences, self._folders = model, points, sequences, folders
        self._batch_size = batch_size
        self._widths = [sum(map(model.d_in, _given(pair))) for pair in points]
        self._manifests = [_manifest(model, *pair, sequences, shard_sequences) for pair in points]
        self._slices = [
            slice(start, min(start + shard_sequences, len(sequences)))
            for start in range(0, len(sequences), shard_sequences)
        ]
        self._counted = sequences.counted.sum(axis=1)
        self.sizes = [int(self._counted[rows].sum()) for rows in self._slices]
        """[shards] counted tokens."""

    def prepare(self) -> None:
        """Write to the folders what they hold, before the shards are made.

        Raises:
            ArtifactError: the disk is too small, or a folder holds activations of something else.
        """
        for folder, manifest in zip(self._folders, self._manifests, strict=True):
            _claim(folder, manifest)
        needed = sum(
            ActivationCache.size(self._sequences, self._widths[which], rows.stop - rows.start)
            for which, folder in enumerate(self._folders)
            for index, rows in enumerate(self._slices)
            if not _shard_path(folder, index).exists()
        )
        require_free_space(self._folders[0], needed, "The activation cache")

    def paths(self, index: int) -> list[Path]:
        """Return the files of a shard, one in each folder."""
        return [_shard_path(folder, index) for folder in self._folders]

    def made(self) -> set[int]:
        """Return the shards that are in all folders."""
        names = set.intersection(*({path.name for path in folder.iterdir()} for folder in self._folders))
        return {index for index in range(len(self._slices)) if _shard_path(self._folders[0], index).name in names}

    def is_made(self, index: int) -> bool:
        """True if the shard is in all folders."""
        return not self._lacking(index)

    def make(self, index: int, progress: Callable[[int], None]) -> None:
        """Run the model over the shard's sequences, and write it to the folders that lack it."""
        lacking, rows = self._lacking(index), self._slices[index]
        hooks = [hook for which in lacking for hook in _given(self._points[which])]
        shape = rows.stop - rows.start, self._sequences.length
        shards = [torch.empty((*shape, self._widths[which])) for which in lacking]
        for start in range(rows.start, rows.stop, self._batch_size):
            batch = slice(start, min(start + self._batch_size, rows.stop))
            token_ids = torch.from_numpy(self._sequences.token_ids[batch]).long()
            side_by_side = self._model.activations(token_ids, *hooks)
            parts = torch.split(side_by_side, [shard.shape[-1] for shard in shards], dim=-1)
            for shard, part in zip(shards, parts, strict=True):
                shard[batch.start - rows.start : batch.stop - rows.start] = part
            progress(int(self._counted[rows.start : batch.stop].sum()))
        for which, shard in zip(lacking, shards, strict=True):
            _write_shard(self._folders[which], index, shard)

    def open(self) -> list[ActivationCache]:
        """Open the finished caches."""
        return [
            ActivationCache(folder, self._sequences, manifest)
            for folder, manifest in zip(self._folders, self._manifests, strict=True)
        ]

    def _lacking(self, index: int) -> list[int]:
        return [which for which, folder in enumerate(self._folders) if not _shard_path(folder, index).exists()]


def _manifest(
    model: LanguageModel, hook: HookPoint, target: HookPoint | None, sequences: Sequences, shard_sequences: int
) -> dict[str, Any]:
    """Return what a cache's manifest says."""
    manifest = {
        _NAME: model.name,
        "model_sha256": model.weights_sha256,
        **({} if model.dtype == "float32" else {"dtype": model.dtype}),
        "hook": str(hook),
        "sequences_sha256": sequences.sha256,
        "d_in": model.d_in(hook),
        "shard_sequences": shard_sequences,
    }
    if target is not None:
        manifest |= {"target": str(target), "d_out": model.d_in(target)}
    return manifest


def _given(pair: tuple[HookPoint, HookPoint | None]) -> list[HookPoint]:
    hook, target = pair
    return [hook] if target is None else [hook, target]


def _claim(folder: Path, manifest: dict[str, Any]) -> None:
    """Write to `folder` what it holds, or check that it already holds the same."""
    found = _read_manifest(folder)
    if found is None:
        write_json(folder / _MANIFEST, manifest)
    elif differing := sorted(key for key in manifest.keys() - {_NAME} if manifest[key] != found.get(key)):
        raise ArtifactError(
            f"{folder} holds activations of something else ({', '.join(differing)} differ). "
            "Delete it, or name another folder."
        )


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    path = folder / _MANIFEST
    if not path.exists():
        return None
    manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return manifest


def _n_shards(sequences: Sequences, shard_sequences: int) -> int:
    return -(-len(sequences) // shard_sequences)


def _shard_path(folder: Path, index: int) -> Path:
    return folder / f"shard-{index:05d}.safetensors"


def _write_shard(folder: Path, index: int, activations: Float[Tensor, "sequence position d_in"]) -> None:
    write_tensors(_shard_path(folder, index), {_TENSOR: activations})


def _open_shard(folder: Path, index: int) -> Float[Tensor, "sequence position d_in"]:
    path = _shard_path(folder, index)
    if not path.exists():
        raise ArtifactError(f"The activation cache at {folder} is unfinished: {path.name} is missing. Build it again.")
    try:
        with safe_open(path, framework="pt") as file:
            activations: Tensor = file.get_tensor(_TENSOR)
    except SafetensorError as error:
        raise ArtifactError(f"{path} is damaged ({error}). Delete it and build the cache again.") from error
    return activations
