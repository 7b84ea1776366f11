"""Statistics of ranges of features, each in a file of its own: what takes long, and what several processes share."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file

from sae_core.corpora import Sequences
from sae_core.errors import ArtifactError
from sae_core.files import sha256_code, sha256_json, write_json
from sae_core.progress import Progress, rescaled
from sae_core.statistics.coactivation import Coactive, coactive_features, coactive_rows
from sae_core.statistics.examples import choose_examples, concatenate_examples
from sae_core.statistics.health import Placement, follows_uncounted, placement
from sae_core.statistics.moments import MOMENTS, order_by_strength
from sae_core.statistics.token_table import TokenTable, fits
from sae_core.statistics.tokens import TopTokens, top_tokens
from sae_core.statistics.topics import CorpusTopics, TopTopics, corpus_topics, top_topics
from sae_core.statistics.types import Examples
from sae_core.store.activation_store import ActivationStore, FeatureBlock
from sae_core.store.segments import Indices, concatenate, cut
from sae_core.tensor_files import write_tensors
from sae_core.threads import in_order

BLOCK_NONZEROS = 1 << 20
"""Non-zeros read at once; a single feature may have more."""
BLOCK_FEATURES = 1024
"""Features read at once."""
PIECE_NONZEROS = 1 << 15
"""Fewest non-zeros that are worth a thread's turn."""
RANGES = 4
"""Ranges of a large store where memory asks for fewer. Not more: without a token table, each reads the whole store."""
LARGE_NONZEROS = 1 << 26
"""Non-zeros above which that is worth it."""
OWN_SHARE = 0.6
"""Progress where a range's own activations end and its pairs begin; as measured."""

_FOLDER = "ranges"
_INPUTS = "inputs.json"
_NEAR = "near.safetensors"


@dataclass(frozen=True)
class RangeStatistics:
    """Statistics of the activations of some features: each feature's own, and those of pairs."""

    moments: dict[str, NDArray[Any]]
    examples: Examples
    tokens: TopTokens
    topics: TopTopics
    placement: Placement
    coactive: Coactive
    joint_near: Indices
    """[features, m] tokens on which a feature and each of its near decoders are both active."""


class RangeShards:
    """The ranges of features of one store: a `ShardWork`, in a folder within the store's."""

    def __init__(self, store: ActivationStore, sequences: Sequences, near: NDArray[np.int32], seed: int) -> None:
        """Name the ranges.

        Args:
            store: activations on `sequences`.
            sequences: token ids, documents, and what is counted.
            near: [d_sae, m] near decoders; -1 = none.
            seed: of the examples drawn from the bands.
        """
        self._store, self._sequences, self._near, self._seed = store, sequences, near, seed
        self._corpus: CorpusTopics = corpus_topics(sequences)
        self._folder = store.folder / _FOLDER
        self._ranges = _cut(store)
        self.sizes = [len(features) for features in self._ranges]
        """[ranges] features."""

    @classmethod
    def join(cls, store: ActivationStore, sequences: Sequences) -> "RangeShards":
        """Open the ranges that another process has prepared, to help it.

        Raises:
            ArtifactError: it made them with other code, whose definitions may differ, or has ended.
        """
        try:
            inputs = json.loads((store.folder / _FOLDER / _INPUTS).read_text(encoding="utf-8"))
            near = load_file(store.folder / _FOLDER / _NEAR)["near"]
        except FileNotFoundError:
            raise ArtifactError(f"Nobody computes statistics of {store.folder} now.") from None
        joined = cls(store, sequences, near, inputs["seed"])
        if inputs != joined._inputs():
            raise ArtifactError(f"The statistics of {store.folder} are computed by another version of SeeSAE.")
        return joined

    def prepare(self) -> None:
        """Write the inputs, before ranges are computed; remove what was computed from others."""
        inputs = self._folder / _INPUTS
        if not inputs.exists() or json.loads(inputs.read_text(encoding="utf-8")) != self._inputs():
            self.remove()
            write_tensors(self._folder / _NEAR, {"near": torch.from_numpy(self._near)})
            write_json(inputs, self._inputs())

    def paths(self, i: int) -> list[Path]:
        """Return the file of a range."""
        return [self._path(i)]

    def made(self) -> set[int]:
        """Return the ranges that are there."""
        names = {path.name for path in self._folder.glob("range-*.safetensors")}
        return {i for i in range(len(self._ranges)) if self._path(i).name in names}

    def is_made(self, i: int) -> bool:
        """True if this one is there."""
        return self._path(i).exists()

    def make(self, i: int, progress: Callable[[int], None]) -> None:
        """Compute the statistics of one range, and write them."""
        features = self._ranges[i]
        size = len(features)
        found = self._compute(features, lambda done, total, _=None, /: progress(size * done // max(total, 1)))
        write_tensors(self._path(i), {name: torch.from_numpy(array) for name, array in _flat(found).items()})

    def merged(self) -> RangeStatistics:
        """Read all ranges, and join them."""
        parts = [_unflat(RangeStatistics, load_file(self._path(i))) for i in range(len(self._ranges))]
        return RangeStatistics(
            moments={name: np.concatenate([part.moments[name] for part in parts]) for name in MOMENTS},
            examples=concatenate_examples([part.examples for part in parts]),
            tokens=concatenate([part.tokens for part in parts]),
            topics=concatenate([part.topics for part in parts]),
            placement=concatenate([part.placement for part in parts]),
            coactive=concatenate([part.coactive for part in parts]),
            joint_near=np.concatenate([part.joint_near for part in parts]),
        )

    def remove(self) -> None:
        """Remove the folder: once the statistics are joined, nobody needs it."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _path(self, i: int) -> Path:
        return self._folder / f"range-{i:05}.safetensors"

    def _inputs(self) -> dict[str, Any]:
        """Return all that the files depend on, as JSON."""
        return {
            "plan": sha256_json(self._store.plan),
            "near": hashlib.sha256(self._near.tobytes()).hexdigest(),
            "seed": self._seed,
            "ranges": [features.stop for features in self._ranges],
            "code": sha256_code(),
        }

    def _compute(self, features: range, progress: Progress) -> RangeStatistics:
        size = len(features)
        own = self._own(features, rescaled(progress, size, 0, OWN_SHARE))
        near = self._near[features.start : features.stop]
        pairs = rescaled(progress, size, OWN_SHARE, 1)
        tokens = self._sequences.n_counted
        coactive, joint_near = coactive_features(self._store, features, tokens, near, pairs, self._table)
        return RangeStatistics(**own, coactive=coactive, joint_near=joint_near)

    @cached_property
    def _table(self) -> TokenTable | None:
        """The token table of the store, made once for all ranges of this process; None if it does not fit."""
        return TokenTable.of(self._store, values=False) if fits(self._store, values=False) else None

    def _own(self, features: range, progress: Progress) -> dict[str, Any]:
        """Return the statistics of each feature's own activations, by their names in `RangeStatistics`."""
        parts = []
        for stop, part in in_order(self._of_piece, self._pieces(features)):
            parts.append(part)
            progress(stop - features.start, len(features))
        moments, examples, tokens, topics, placements = zip(*parts, strict=True)
        return {
            "moments": {name: np.concatenate([part[name] for part in moments]) for name in MOMENTS},
            "examples": concatenate_examples(examples),
            "tokens": concatenate(tokens),
            "topics": concatenate(topics),
            "placement": concatenate(placements),
        }

    def _pieces(self, features: range) -> Iterator[FeatureBlock]:
        """Read blocks of features, each only when its first piece is asked for, and cut them for the threads.

        What is computed from a piece takes several times its room, so more threads get smaller pieces.
        """
        most = max(PIECE_NONZEROS, BLOCK_NONZEROS // (2 * torch.get_num_threads()))
        for start, stop in self._store.feature_blocks(BLOCK_NONZEROS, BLOCK_FEATURES, features):
            block = self._store.block(start, stop)
            for piece in cut(block.count.tolist(), most, BLOCK_FEATURES):
                yield block.features(*piece)

    def _of_piece(
        self, piece: FeatureBlock
    ) -> tuple[int, tuple[dict[str, NDArray[Any]], Examples, TopTokens, TopTopics, Placement]]:
        """Return where a piece ends, and the statistics of its features' own activations."""
        length, strongest_first = self._sequences.length, order_by_strength(piece)
        return piece.start + piece.n_features, (
            {name: moment(piece, strongest_first) for name, moment in MOMENTS.items()},
            choose_examples(piece, strongest_first, length, self._seed),
            top_tokens(piece, self._sequences.token_ids.reshape(-1)),
            top_topics(piece, self._corpus),
            placement(piece, length, self._follows),
        )

    @cached_property
    def _follows(self) -> NDArray[np.bool_]:
        return follows_uncounted(self._sequences)


def _cut(store: ActivationStore) -> list[range]:
    """Cut the features into ranges: as few as memory allows, and a few where there is much to do."""
    rows = coactive_rows(store)
    if sum(store.shard_nonzeros) > LARGE_NONZEROS:
        rows = min(rows, -(-store.d_sae // RANGES))
    return [range(start, min(start + rows, store.d_sae)) for start in range(0, store.d_sae, rows)]


def _flat(value: Any, prefix: str = "") -> dict[str, NDArray[Any]]:
    """Return the arrays of nested dataclasses and dicts by their paths, such as `tokens.ids`."""
    if isinstance(value, np.ndarray):
        return {prefix.removesuffix("."): value}
    inner = value if isinstance(value, Mapping) else {field.name: getattr(value, field.name) for field in fields(value)}
    return {path: array for name, part in inner.items() for path, array in _flat(part, f"{prefix}{name}.").items()}


def _unflat(kind: Any, arrays: Mapping[str, NDArray[Any]]) -> Any:
    """Return a dataclass, a dict or an array of what `_flat` made of it."""
    if "" in arrays:
        return arrays[""]
    if not is_dataclass(kind):
        return dict(arrays)
    made: dict[str, Any] = {}
    for field in fields(kind):
        own = {
            path.removeprefix(field.name).removeprefix("."): array
            for path, array in arrays.items()
            if path.partition(".")[0] == field.name
        }
        made[field.name] = _unflat(field.type, own)
    return kind(**made)  # type: ignore[operator]
