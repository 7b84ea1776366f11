"""Packed sequences of tokens, with the documents that they came from."""

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Int32
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from sae_core.errors import ArtifactError
from sae_core.files import write_json
from sae_core.tensor_files import write_tensors

VALIDATION_EVERY = 20
"""One sequence in this many is held out from training."""

_TOKENS, _DESCRIPTION = "tokens.safetensors", "sequences.json"


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
        """Return a mask of the sequences held out from training: one in 20, starting with the second."""
        held_out: NDArray[np.bool_] = np.arange(len(self)) % VALIDATION_EVERY == 1
        return held_out

    def save(self, folder: Path) -> None:
        """Write the sequences to `folder`, the description last: where it is, the sequences are whole.

        Raises:
            ArtifactError: the disk is full.
        """
        arrays = {"token_ids": self.token_ids, "counted": self.counted, "document_of": self.document_of}
        write_tensors(folder / _TOKENS, {name: torch.from_numpy(array) for name, array in arrays.items()})
        description = {
            "length": self.length,
            "pad_token_id": self.pad_token_id,
            "tokenizer_sha256": self.tokenizer_sha256,
            "sha256": self.sha256,
            "corpus": asdict(self.corpus),
            "documents": [[document.title, document.topic] for document in self.documents],
        }
        write_json(folder / _DESCRIPTION, description)

    @classmethod
    def load(cls, folder: Path) -> "Sequences":
        """Read sequences that `save` wrote.

        Raises:
            ArtifactError: there are none, or their hash is wrong.
        """
        try:
            description = json.loads((folder / _DESCRIPTION).read_text(encoding="utf-8"))
            arrays = load_file(folder / _TOKENS)
        except (OSError, ValueError, SafetensorError) as error:
            raise ArtifactError(f"There are no sequences at {folder}: {error}. Pack the corpus again.") from error
        sequences = cls(
            length=description["length"],
            pad_token_id=description["pad_token_id"],
            documents=[DocumentInfo(title, topic) for title, topic, *_ in description["documents"]],
            corpus=CorpusInfo(**description["corpus"]),
            tokenizer_sha256=description["tokenizer_sha256"],
            **arrays,
        )
        if sequences.sha256 != description["sha256"]:
            raise ArtifactError(f"The sequences at {folder} do not match their hash. Delete them and pack again.")
        return sequences
