"""Packed sequences of tokens, with the documents that they came from."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int32

VALIDATION_EVERY = 20
"""One sequence in this many is held out from training."""


@dataclass(frozen=True)
class CorpusInfo:
    """A corpus without its documents."""

    slug: str
    title: str
    source: str
    """File name or hub id."""
    licence: str | None
    attribution: str | None
    sha256: str
    """Of the documents' titles, topics and texts, in order."""


@dataclass(frozen=True)
class DocumentInfo:
    """A document without its text."""

    title: str
    topic: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """The corpus' other columns: url, licence, language, …"""


@dataclass(frozen=True, eq=False)
class Sequences:
    """Fixed-length runs of tokens, packed from one corpus by one tokenizer."""

    length: int
    """Positions in a sequence."""
    pad_token_id: int
    token_ids: Int32[np.ndarray, "sequence position"]
    """Right padded."""
    counted: Bool[np.ndarray, "sequence position"]
    """False for padding, BOS and every other special token."""
    document_of: Int32[np.ndarray, "sequence position"]
    """Index into `documents`; -1 for BOS, separators and padding."""
    documents: list[DocumentInfo]
    """The documents that were packed, in packed order."""
    corpus: CorpusInfo
    tokenizer_sha256: str

    def __len__(self) -> int:
        return len(self.token_ids)

    @property
    def n_counted(self) -> int:
        """Counted tokens."""
        return int(self.counted.sum())

    @cached_property
    def sha256(self) -> str:
        """Hash of the tokens and of what they were made from."""
        digest = hashlib.sha256(f"{self.corpus.sha256} {self.tokenizer_sha256} {self.length}".encode())
        for array in (self.token_ids, self.counted, self.document_of):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def is_validation(self) -> Bool[np.ndarray, "sequence"]:
        """Which sequences are held out from training: one in 20, starting with the second."""
        return np.arange(len(self)) % VALIDATION_EVERY == 1

    def save(self, folder: Path) -> None:
        """Write the sequences to `folder`."""
        raise NotImplementedError

    @classmethod
    def load(cls, folder: Path) -> "Sequences":
        """Read sequences that `save` wrote."""
        raise NotImplementedError
