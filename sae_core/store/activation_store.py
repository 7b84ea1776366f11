"""The activation store: every non-zero feature activation of a corpus, on disk, sorted by feature.

A store is a folder of shards, each of consecutive sequences and in compressed sparse columns, and a manifest that is
written last: `indptr` int64 [d_sae + 1], `position` int32 and `value` float32, both [non-zeros]. A position is
`sequence * length + position in the sequence`, ascending within a feature. Only counted tokens are in it.
"""

import hashlib
import importlib.metadata
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

from sae_core.corpora import Sequences
from sae_core.errors import ArtifactError, CorpusError
from sae_core.files import sha256_file, sha256_json, write_json
from sae_core.memory import reuse_freed_memory
from sae_core.progress import Progress, silent
from sae_core.saes.base import SAE
from sae_core.shards import MakeShards, make_shards
from sae_core.store.segments import Indices, bounds, cut, row_bounds, stable_argsort
from sae_core.tensor_files import write_tensors

STORE_VERSION = 1
"""Raise it when the meaning or the layout of a shard changes."""

ENCODE_TOKENS = 1024
"""Tokens encoded at once: the dense [tokens, d_sae] block is the largest thing in memory."""

MANIFEST = "manifest.json"


class ActivationShards(Protocol):
    """Activations of a corpus in shards of consecutive sequences, each made only when asked for."""

    n_shards: int

    def rows(self, index: int, /) -> range:
        """Return the numbers of one shard's sequences."""

    def shard(self, index: int, /) -> tuple[slice, Float[Tensor, "sequence position d_in"]]:
        """Return the numbers of one shard's sequences, as a slice, and their activations."""


@dataclass(frozen=True)
class FeatureBlock:
    """The non-zero activations of consecutive features, sorted by (feature, position)."""

    start: int
    """The first feature; row i below is feature start + i."""
    indptr: Indices
    """[features + 1]"""
    position: NDArray[np.int32]
    value: NDArray[np.float32]

    @property
    def n_features(self) -> int:
        """Features in the block, dead ones too."""
        return len(self.indptr) - 1

    @cached_property
    def count(self) -> Indices:
        """[features] non-zero activations."""
        return np.diff(self.indptr)

    @cached_property
    def row(self) -> NDArray[np.int32]:
        """[non-zeros] the feature of each, counted from `start`."""
        return np.repeat(np.arange(self.n_features, dtype=np.int32), self.count)

    def features(self, start: int, stop: int) -> "FeatureBlock":
        """Return rows `start` to `stop - 1` as a block."""
        own = slice(self.indptr[start], self.indptr[stop])
        indptr = self.indptr[start : stop + 1] - self.indptr[start]
        return FeatureBlock(self.start + start, indptr, self.position[own], self.value[own])

    def on(self, positions: range) -> "FeatureBlock":
        """Return only the activations at these positions."""
        kept = (self.position >= positions.start) & (self.position < positions.stop)
        if kept.all():
            return self
        indptr = row_bounds(self.row[kept], self.n_features)
        return FeatureBlock(self.start, indptr, self.position[kept], self.value[kept])


class ActivationStore:
    """A finished store, opened for reading; only the counts are held.

    A shard is mapped only while it is read: the pages read of a mapped file stay in memory as long as the map does, and
    in the end that would be the whole store.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder = folder
        self.plan: dict[str, Any] = manifest["plan"]
        """Inputs that the store was made from: hashes, versions, sizes."""
        self.d_sae: int = self.plan["d_sae"]
        self.sequences_sha256: str = self.plan["sequences_sha256"]
        self._paths = [folder / shard["file"] for shard in manifest["shards"]]
        self.shard_nonzeros: list[int] = [shard["nonzeros"] for shard in manifest["shards"]]
        """Non-zero activations of each shard."""
        length = self.plan["length"]
        self.shard_positions = [range(shard["start"] * length, shard["stop"] * length) for shard in manifest["shards"]]
        """Positions of each shard; they follow one another."""
        self.count = np.zeros(self.d_sae, np.int64)
        """[d_sae] non-zero activations of each feature."""
        for i in range(self.n_shards):
            with self._shard(i) as file:
                self.count += np.diff(file.get_tensor("indptr"))

    @classmethod
    def open(cls, folder: Path) -> "ActivationStore":
        """Open a finished store.

        Raises:
            ArtifactError: the store is not finished, or a shard is missing or is not what was written.
        """
        manifest_file = folder / MANIFEST
        if not manifest_file.exists():
            raise ArtifactError(f"{folder} holds no finished activation store. Run the index again to finish it.")
        manifest = json.loads(manifest_file.read_text(encoding="utf-8"))
        for shard in manifest["shards"]:
            path = folder / shard["file"]
            if not path.exists() or sha256_file(path) != shard["sha256"]:
                raise ArtifactError(f"{path} is missing or damaged. Delete {folder} and run the index again.")
        return cls(folder, manifest)

    @property
    def n_shards(self) -> int:
        """Shards in the store."""
        return len(self._paths)

    def _shard(self, i: int) -> Any:
        return safe_open(self._paths[i], framework="numpy")

    def block(self, start: int, stop: int, shards: range | None = None) -> FeatureBlock:
        """Read features `start` to `stop - 1`, merged over `shards` (all of them by default)."""
        chosen = range(self.n_shards) if shards is None else shards
        columns = []
        for i in chosen:
            with self._shard(i) as file:
                columns.append(file.get_slice("indptr")[start : stop + 1])
        lengths = np.array([np.diff(column) for column in columns]).reshape(len(columns), stop - start)
        indptr = bounds(lengths.sum(axis=0))
        position = np.empty(indptr[-1], np.int32)
        value = np.empty(indptr[-1], np.float32)
        # Shards hold ascending sequences, so a feature's run is its runs in the shards, one after the other.
        offsets = indptr[:-1] + np.cumsum(lengths, axis=0) - lengths
        for i, column, length, offset in zip(chosen, columns, lengths, offsets, strict=True):
            first, last = int(column[0]), int(column[-1])
            if first == last:
                continue  # which get_slice would refuse
            target = np.arange(first, last) + np.repeat(offset - column[:-1], length)
            with self._shard(i) as file:
                position[target] = file.get_slice("position")[first:last]
                value[target] = file.get_slice("value")[first:last]
        return FeatureBlock(start, indptr, position, value)

    def block_on(self, start: int, stop: int, positions: range) -> FeatureBlock:
        """Read features `start` to `stop - 1` at these positions, which need not be those of whole shards."""
        own = self.shard_positions
        first = next(i for i in range(self.n_shards) if own[i].stop > positions.start)
        last = next(i for i in reversed(range(self.n_shards)) if own[i].start < positions.stop)
        return self.block(start, stop, range(first, last + 1)).on(positions)

    def positions(self, shards: range) -> range:
        """Positions of consecutive shards."""
        return range(self.shard_positions[shards[0]].start, self.shard_positions[shards[-1]].stop)

    def feature_blocks(
        self, max_nonzeros: int, max_features: int, features: range | None = None
    ) -> list[tuple[int, int]]:
        """Cut `features`, or all, into (start, stop) of at most `max_nonzeros`, or of one feature that has more."""
        own = range(self.d_sae) if features is None else features
        blocks = cut(self.count[own.start : own.stop].tolist(), max_nonzeros, max_features)
        return [(own.start + start, own.start + stop) for start, stop in blocks]

    def shard_groups(self, max_nonzeros: int) -> list[range]:
        """Cut the shards into ranges of at most `max_nonzeros`, or of one shard that has more."""
        return [range(*group) for group in cut(self.shard_nonzeros, max_nonzeros, max(1, self.n_shards))]


def build_store(
    sae: SAE,
    shards: ActivationShards,
    sequences: Sequences,
    folder: Path,
    *,
    make: MakeShards = make_shards,
    progress: Progress = silent,
) -> ActivationStore:
    """Encode every counted token and keep the non-zero activations.

    If it is killed, the same call continues after the last whole shard, without asking for the activations of
    those that are done, and ends with the same bytes. A finished store of the same SAE and sequences is just opened.
    Processes that may make one store hold its folder's `sae_core.locks.folder_lock` meanwhile, except those that help
    one of them by making `StoreShards` of it.

    Args:
        sae: in its inference form.
        shards: activations of `sequences`, in order; an `ActivationCache` is one.
        sequences: the text that the activations were computed on.
        folder: of the store.
        make: makes the shards, with other processes or alone.
        progress: in counted tokens.

    Raises:
        ArtifactError: the disk is full, or the shards are not those of `sequences`.
        CorpusError: the sequences are too long or too many for the store's integers.
    """
    work = StoreShards(sae, shards, sequences, folder)
    if work.is_finished():
        return ActivationStore.open(folder)
    work.prepare()
    make(work, progress=progress)
    return work.finish()


def weights_sha256(sae: SAE) -> str:
    """Hash of everything in an SAE that decides its activations."""
    config = sae.config
    digest = hashlib.sha256(f"{sae.architecture} {sae.k}".encode())
    digest.update(f" {config.apply_b_dec_to_input} {config.normalize_activations}".encode())
    for name, tensor in sorted(sae.state_dict().items()):
        array = tensor.detach().cpu().contiguous().numpy()
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _plan(sae: SAE, sequences: Sequences) -> dict[str, Any]:
    positions = len(sequences) * sequences.length
    if positions > np.iinfo(np.int32).max or sequences.length > np.iinfo(np.int16).max:
        raise CorpusError(
            f"{len(sequences):,} sequences of {sequences.length:,} tokens are too many for one index: "
            "it holds 2^31 tokens, in sequences of at most 32,767. Take fewer tokens."
        )
    return {
        "sae_sha256": weights_sha256(sae),
        "d_sae": sae.d_sae,
        "sequences_sha256": sequences.sha256,
        "tokenizer_sha256": sequences.tokenizer_sha256,
        "sequences": len(sequences),
        "length": sequences.length,
        "tokens": sequences.n_counted,
        "store_version": STORE_VERSION,
        "seesae_version": importlib.metadata.version("seesae"),
    }


class StoreShards:
    """The shards of a store, which carry a mark of what they were made from: a `ShardWork`."""

    def __init__(self, sae: SAE, shards: ActivationShards, sequences: Sequences, folder: Path) -> None:
        """Name the shards; arguments and errors as for `build_store`."""
        reuse_freed_memory()
        self._sae, self._shards, self._sequences, self._folder = sae, shards, sequences, folder
        self._plan = _plan(sae, sequences)
        self._mark = {"plan": sha256_json(self._plan), "n_shards": shards.n_shards}
        rows = [shards.rows(i) for i in range(shards.n_shards)]
        if [0, *(own.stop for own in rows)] != [*(own.start for own in rows), len(sequences)]:
            raise ArtifactError(
                f"The activation shards for {folder} do not follow one another over the sequences. "
                f"Delete {folder} and the activation cache, and run the index again."
            )
        self.sizes = [int(sequences.counted[own.start : own.stop].sum()) for own in rows]
        """[shards] counted tokens."""

    def is_finished(self) -> bool:
        """True if the folder holds the whole store already."""
        manifest = self._folder / MANIFEST
        return manifest.exists() and json.loads(manifest.read_text(encoding="utf-8"))["plan"] == self._plan

    def prepare(self) -> None:
        """Remove what was made from something else, before shards are made."""
        (self._folder / MANIFEST).unlink(missing_ok=True)
        for path in self._folder.glob("shard-*.safetensors"):
            if _header(path)["mark"] != self._mark:
                path.unlink(missing_ok=True)

    def paths(self, i: int) -> list[Path]:
        """Return the file of a shard."""
        return [self._path(i)]

    def made(self) -> set[int]:
        """Return the shards that are there."""
        names = {path.name for path in self._folder.glob("shard-*.safetensors")}
        return {i for i in range(len(self.sizes)) if self._path(i).name in names}

    def is_made(self, i: int) -> bool:
        """True if this one is there."""
        return self._path(i).exists()

    def make(self, i: int, progress: Callable[[int], None]) -> None:
        """Encode and write one shard.

        Raises:
            ArtifactError: an activation, of the model or of the SAE, is NaN or infinite, or the disk is full.
        """
        where, activations = self._shards.shard(i)
        start, stop, _ = where.indices(len(self._sequences))
        tensors = self._encode(start, stop, activations, progress)
        header = {"mark": self._mark, "start": start, "stop": stop, "nonzeros": len(tensors["position"])}
        # One key, because safetensors writes several in no fixed order.
        write_tensors(self._path(i), tensors, {"seesae": json.dumps(header)})

    def finish(self) -> ActivationStore:
        """Write the manifest, once all shards are there.

        Raises:
            ArtifactError: a shard is not of this store.
        """
        manifest = {"plan": self._plan, "shards": [self._entry(self._path(i)) for i in range(len(self.sizes))]}
        write_json(self._folder / MANIFEST, manifest)
        return ActivationStore(self._folder, manifest)  # each shard was hashed a moment ago

    def _path(self, i: int) -> Path:
        return self._folder / f"shard-{i:05}.safetensors"

    def _entry(self, path: Path) -> dict[str, Any]:
        header = _header(path)
        if header["mark"] != self._mark:
            raise ArtifactError(f"{path} was made from something else. Run the index again: it makes the shard anew.")
        sizes = {key: header[key] for key in ("start", "stop", "nonzeros")}
        return {"file": path.name, "sha256": sha256_file(path), **sizes}

    def _encode(self, start: int, stop: int, activations: Tensor, progress: Callable[[int], None]) -> dict[str, Tensor]:
        length = self._sequences.length
        counted = np.flatnonzero(self._sequences.counted[start:stop])
        x = activations.reshape((stop - start) * length, -1)
        token, feature, value = [], [], []
        for i in range(0, len(counted), ENCODE_TOKENS):
            tokens = torch.from_numpy(counted[i : i + ENCODE_TOKENS])
            rows, features, values = nonzeros(self._sae, x[tokens])
            token.append(counted[i + rows])
            feature.append(features)
            value.append(values)
            progress(i + len(tokens))
        features = np.concatenate([*feature, np.empty(0, np.int64)])
        # Tokens come in ascending order, so a stable sort by feature leaves them ascending within each.
        order = stable_argsort(features)
        position = np.concatenate([*token, np.empty(0, np.int64)])[order] + start * length
        csc = {
            "indptr": row_bounds(features, self._sae.d_sae),
            "position": position.astype(np.int32),
            "value": np.concatenate([*value, np.empty(0, np.float32)])[order],
        }
        return {name: torch.from_numpy(array) for name, array in csc.items()}


def _header(path: Path) -> dict[str, Any]:
    """Return what a shard says of itself."""
    with safe_open(path, framework="numpy") as file:
        header: dict[str, Any] = json.loads(file.metadata()["seesae"])
    return header


@torch.no_grad()
def nonzeros(
    sae: SAE, x: Float[Tensor, "token d_in"]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Encode tokens; return the non-zero activations as (row of `x`, feature, value), by row.

    Raises:
        ArtifactError: an activation, of the model or of the SAE, is NaN or infinite.
    """
    if not x.isfinite().all():
        raise ArtifactError("The model's activations are not numbers. Delete the activation cache and run it again.")
    active, values = sae.encode_sparse(x.to(sae.W_dec.device))
    if not values.isfinite().all():
        raise ArtifactError("The SAE gives activations that are not numbers. Its weights are damaged: train it again.")
    return active.rows.cpu().numpy(), active.features.cpu().numpy(), values.float().cpu().numpy()
