"""Corpora and their packed sequences."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession


@dataclass(frozen=True, slots=True)
class CorpusInfo:
    """A registered corpus."""

    id: int
    slug: str
    title: str
    source: str
    licence: str
    attribution: str
    sha256: str
    documents: int


@dataclass(frozen=True, slots=True)
class SequenceSetInfo:
    """All sequences packed from one corpus by one tokenizer; `tokens` are the counted ones."""

    id: int
    corpus: CorpusInfo
    model_id: int
    length: int
    sequences: int
    tokens: int
    sha256: str


@dataclass(frozen=True, slots=True)
class DocumentRow:
    """One document to register; its number is its place."""

    title: str
    topic: str | None = None
    metadata: Mapping[str, Any] | None = None


async def register_corpus(
    session: AsyncSession,
    *,
    slug: str,
    title: str,
    source: str,
    licence: str,
    attribution: str,
    sha256: str,
    documents: int,
) -> CorpusInfo:
    """The corpus of this slug, registered if it is new.

    Raises:
        Conflict: the slug belongs to a corpus with other text.
    """
    raise NotImplementedError


async def register_sequences(
    session: AsyncSession,
    *,
    corpus_id: int,
    model_id: int,
    length: int,
    tokens: int,
    sha256: str,
    documents: Iterable[DocumentRow],
    sequences: Iterable[tuple[Sequence[int], Sequence[int]]],
) -> SequenceSetInfo:
    """The sequence set of this hash, copied in if it is new.

    Args:
        sequences: token ids without padding and, for each token, its document's number (-1 for BOS and separators).
    """
    raise NotImplementedError


async def get_sequences(session: AsyncSession, sequence_set_id: int) -> SequenceSetInfo | None:
    """The sequence set with this id."""
    raise NotImplementedError
