"""A reading of texts, and its shards on disk."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64, UInt8
from scipy import sparse

from sae_core.errors import ArtifactError
from sae_core.files import write_atomically

RESIDUAL_POOLS = ("mean", "max", "user-mean", "user-max", "assistant-mean", "assistant-max", "last")
"""Of raw activations: over the tokens that somebody wrote, those of one role alone, and the last token."""


class Part(IntEnum):
    """What a token belongs to: a plain text, a turn of a chat by its role, or the words of the chat's template."""

    TEXT = 0
    SYSTEM = 1
    USER = 2
    ASSISTANT = 3
    TEMPLATE = 4


@dataclass(frozen=True)
class Reading:
    """Feature activations of an SAE on texts, and the raw activations that it read, pooled.

    Counted tokens alone are in it: no prefix, no special tokens. Text `i` has those from `offsets[i]` to
    `offsets[i + 1]`; a text without any has none.
    """

    offsets: Int64[np.ndarray, " texts+1"]
    token_ids: Int32[np.ndarray, " tokens"]
    parts: UInt8[np.ndarray, " tokens"]
    """`Part` of each token."""
    features: sparse.csr_array
    """Float32 `[tokens, d_sae]`: the activations that are not 0."""
    residual: Mapping[str, Float32[np.ndarray, "texts d_in"]]
    """Activations at the hook by pool, of `RESIDUAL_POOLS`. Zero where a text has no such token."""
    truncated: Bool[np.ndarray, " texts"]
    """True for a text that was longer than the most tokens that were read."""

    @property
    def texts(self) -> int:
        """Number of texts."""
        return len(self.offsets) - 1

    @property
    def tokens(self) -> int:
        """Number of counted tokens."""
        return len(self.token_ids)

    @property
    def d_sae(self) -> int:
        """Number of features."""
        return int(self.features.shape[1])

    @property
    def lengths(self) -> Int64[np.ndarray, " texts"]:
        """Counted tokens per text."""
        return np.diff(self.offsets)

    @property
    def text_of_token(self) -> Int64[np.ndarray, " tokens"]:
        """Number of the text of each token."""
        return np.repeat(np.arange(self.texts), self.lengths)


def select_texts(reading: Reading, texts: Sequence[int] | Int64[np.ndarray, " chosen"]) -> Reading:
    """Return the reading of some of its texts, in the order given."""
    chosen = np.asarray(texts, np.int64)
    lengths = reading.lengths[chosen]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    tokens = np.arange(offsets[-1]) + np.repeat(reading.offsets[chosen] - offsets[:-1], lengths)
    return Reading(
        offsets=offsets,
        token_ids=reading.token_ids[tokens],
        parts=reading.parts[tokens],
        features=reading.features[tokens],
        residual={pool: rows[chosen] for pool, rows in reading.residual.items()},
        truncated=reading.truncated[chosen],
    )


def join_readings(readings: Sequence[Reading]) -> Reading:
    """Return the readings of one SAE as one, its texts in order."""
    lengths = np.concatenate([reading.lengths for reading in readings])
    return Reading(
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        token_ids=np.concatenate([reading.token_ids for reading in readings]),
        parts=np.concatenate([reading.parts for reading in readings]),
        features=sparse.csr_array(sparse.vstack([reading.features for reading in readings], format="csr")),
        residual={pool: np.concatenate([reading.residual[pool] for reading in readings]) for pool in RESIDUAL_POOLS},
        truncated=np.concatenate([reading.truncated for reading in readings]),
    )


def save_reading(reading: Reading, path: Path) -> None:
    """Write a reading as one file, whole or not at all.

    Raises:
        ArtifactError: the disk is full.
    """
    arrays: dict[str, Any] = {
        "offsets": reading.offsets,
        "token_ids": reading.token_ids,
        "parts": reading.parts,
        "truncated": reading.truncated,
        "data": reading.features.data,
        "indices": reading.features.indices.astype(np.int32, copy=False),
        "indptr": reading.features.indptr.astype(np.int64, copy=False),
        "d_sae": np.int64(reading.d_sae),
    }
    arrays |= {f"residual_{pool}": rows for pool, rows in reading.residual.items()}
    write_atomically(path, lambda file: np.savez(file, **arrays))


def load_shard(path: Path) -> Reading:
    """Read a file that `save_reading` wrote.

    Raises:
        ArtifactError: the file is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            shape = (len(file["token_ids"]), int(file["d_sae"]))
            return Reading(
                offsets=file["offsets"],
                token_ids=file["token_ids"],
                parts=file["parts"],
                features=sparse.csr_array((file["data"], file["indices"], file["indptr"]), shape=shape),
                residual={pool: file[f"residual_{pool}"] for pool in RESIDUAL_POOLS},
                truncated=file["truncated"],
            )
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise ArtifactError(f"{path} is damaged ({error}). Delete it, and read the texts again.") from error


def load_reading(folder: Path) -> Reading:
    """Return the reading that `read_texts` completed in a folder.

    Raises:
        ArtifactError: it is not there, or damaged.
    """
    shards = sorted(folder.glob("shard-*.npz"))
    if not shards:
        raise ArtifactError(f"There is no reading of texts in {folder}. Read the texts again.")
    return join_readings([load_shard(path) for path in shards])
