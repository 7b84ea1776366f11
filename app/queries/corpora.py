"""Corpora and their packed sequences."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

from psycopg.types.json import Jsonb
from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app import tables
from app.queries.sql.copy import copy_rows
from app.queries.sql.locks import lock_until_commit
from app.queries.sql.pg_safe import clean_json, clean_text
from app.tables import Corpus, Document, SequenceSet


@dataclass(frozen=True, slots=True)
class CorpusInfo:
    """A registered corpus; the title of all but the first version says which it is."""

    id: int
    slug: str
    version: int
    title: str
    source: str
    licence: str
    attribution: str
    sha256: str
    documents: int


@dataclass(frozen=True, slots=True)
class SequenceSetInfo:
    """All sequences packed from one corpus by one tokenizer; `tokens` is the number of counted ones."""

    id: int
    corpus: CorpusInfo
    model_id: int
    length: int
    sequences: int
    tokens: int
    sha256: str


@dataclass(frozen=True, slots=True)
class DocumentRow:
    """One document to register; its number is its position in the list."""

    title: str
    topic: str | None = None
    metadata: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class CorpusRow:
    """One corpus to register; `documents` is their number."""

    slug: str
    title: str
    source: str
    licence: str
    attribution: str
    sha256: str
    documents: int


@dataclass(frozen=True, slots=True)
class SequenceSetRow:
    """One sequence set to register; `tokens` is the number of counted tokens."""

    corpus_id: int
    model_id: int
    length: int
    tokens: int
    sha256: str


async def register_corpus(session: AsyncSession, row: CorpusRow, *, keep_name: bool = False) -> CorpusInfo:
    """Register a corpus, or return the one with this hash; other text under a slug is its next version.

    With `keep_name`, a corpus that is registered already is renamed to this slug and title.
    """
    await lock_until_commit(session, "corpora")  # so that no two writers take the same version
    clean = {name: clean_text(value) if isinstance(value, str) else value for name, value in asdict(row).items()}
    corpus = (await session.scalars(select(Corpus).where(Corpus.sha256 == row.sha256))).one_or_none()
    if corpus is None:
        corpus = Corpus(**clean, version=await _next_version(session, row.slug))
        session.add(corpus)
    elif keep_name and corpus.slug != row.slug:
        corpus.slug, corpus.version = row.slug, await _next_version(session, row.slug)
    if keep_name:
        corpus.title = clean["title"]
    corpus.licence = corpus.licence or clean["licence"]
    corpus.attribution = corpus.attribution or clean["attribution"]
    await session.flush()
    return corpus_info(corpus)


async def _next_version(session: AsyncSession, slug: str) -> int:
    newest = await session.scalar(select(func.max(Corpus.version)).where(Corpus.slug == slug))
    return (newest or 0) + 1


async def register_sequences(
    session: AsyncSession,
    row: SequenceSetRow,
    *,
    documents: Sequence[DocumentRow],
    sequences: Sequence[tuple[Sequence[int], Sequence[int]]],
) -> SequenceSetInfo:
    """Register a sequence set and copy its sequences, or return the one with this hash.

    Args:
        documents: in order of their number.
        sequences: token ids without padding and, for each token, its document's number (-1 for BOS and separators).
    """
    created = await session.scalar(
        insert(SequenceSet)
        .values(**asdict(row), sequences=len(sequences))
        .on_conflict_do_nothing(index_elements=["sha256"])
        .returning(SequenceSet.id)
    )
    if created is not None:
        await _copy_documents(session, created, documents)
        await _copy_sequences(session, created, sequences)
    found = await session.scalar(select(SequenceSet.id).where(SequenceSet.sha256 == row.sha256))
    info = await get_sequences(session, found or 0)
    assert info is not None
    return info


async def _copy_documents(session: AsyncSession, set_id: int, documents: Iterable[DocumentRow]) -> None:
    await copy_rows(
        session,
        Document,
        ("set_id", "number", "title", "topic", "metadata"),
        (
            (
                set_id,
                number,
                clean_text(document.title),
                None if document.topic is None else clean_text(document.topic),
                Jsonb(clean_json(document.metadata or {}), dumps=lambda value: json.dumps(value, default=str)),
            )
            for number, document in enumerate(documents)
        ),
    )


async def _copy_sequences(
    session: AsyncSession, set_id: int, sequences: Iterable[tuple[Sequence[int], Sequence[int]]]
) -> None:
    await copy_rows(
        session,
        tables.Sequence,
        ("set_id", "number", "token_ids", "document_starts", "document_numbers"),
        (
            (set_id, number, list(token_ids), *run_lengths(document_of))
            for number, (token_ids, document_of) in enumerate(sequences)
        ),
    )


def run_lengths(document_of: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return where each run of a document begins, and the document: [-1, 4, 4, 7] gives [0, 1, 3], [-1, 4, 7]."""
    firsts = [next(run) for _, run in groupby(enumerate(document_of), key=itemgetter(1))]
    return [start for start, _ in firsts], [document for _, document in firsts]


async def get_sequences(session: AsyncSession, sequence_set_id: int) -> SequenceSetInfo | None:
    """Return the sequence set with this id."""
    row = (
        await session.execute(
            select(SequenceSet, Corpus)
            .join(Corpus, Corpus.id == SequenceSet.corpus_id)
            .where(SequenceSet.id == sequence_set_id)
        )
    ).one_or_none()
    return None if row is None else sequence_set_info(row[0], row[1])


def corpus_info(corpus: Corpus) -> CorpusInfo:
    """Convert a table row."""
    return CorpusInfo(
        id=corpus.id,
        slug=corpus.slug,
        version=corpus.version,
        title=corpus.title if corpus.version == 1 else f"{corpus.title} (version {corpus.version})",
        source=corpus.source,
        licence=corpus.licence,
        attribution=corpus.attribution,
        sha256=corpus.sha256,
        documents=corpus.documents,
    )


def sequence_set_info(sequences: SequenceSet, corpus: Corpus) -> SequenceSetInfo:
    """Convert a table row and that of its corpus."""
    return SequenceSetInfo(
        id=sequences.id,
        corpus=corpus_info(corpus),
        model_id=sequences.model_id,
        length=sequences.length,
        sequences=sequences.sequences,
        tokens=sequences.tokens,
        sha256=sequences.sha256,
    )
