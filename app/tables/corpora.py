"""Corpora, and the packed sequences that one tokenizer makes of one corpus."""

from datetime import datetime
from typing import Any

from sqlalchemy import ARRAY, TIMESTAMP, BigInteger, ForeignKey, Identity, Integer, SmallInteger, UniqueConstraint, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.tables.base import Base


class Corpus(Base):
    """Named text with a source, a licence and a hash, by which it is known; texts of one slug are versions."""

    __tablename__ = "corpus"
    __table_args__ = (UniqueConstraint("slug", "version"),)

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    slug: Mapped[str]
    version: Mapped[int] = mapped_column(server_default="1")
    title: Mapped[str]
    source: Mapped[str]
    licence: Mapped[str]
    attribution: Mapped[str]
    sha256: Mapped[str] = mapped_column(unique=True)
    documents: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())


class SequenceSet(Base):
    """All sequences packed from one corpus by one model's tokenizer; `tokens` are the counted ones."""

    __tablename__ = "sequence_set"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    corpus_id: Mapped[int] = mapped_column(ForeignKey("corpus.id"))
    model_id: Mapped[int] = mapped_column(ForeignKey("language_model.id"))
    length: Mapped[int]
    sequences: Mapped[int]
    tokens: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())


class Document(Base):
    """One document of a sequence set; packing may leave documents out, so the number belongs to the set."""

    __tablename__ = "document"

    set_id: Mapped[int] = mapped_column(ForeignKey("sequence_set.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    title: Mapped[str]
    topic: Mapped[str | None]
    info: Mapped[dict[str, Any]] = mapped_column("metadata", JSONB)


class Sequence(Base):
    """The token ids of one sequence, stored once; examples refer to it.

    Which document a token is from is run-length coded: from position `document_starts[i]` on, it is document
    `document_numbers[i]`, -1 for BOS, separators and padding.
    """

    __tablename__ = "sequence"

    set_id: Mapped[int] = mapped_column(ForeignKey("sequence_set.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    token_ids: Mapped[list[int]] = mapped_column(ARRAY(Integer))
    document_starts: Mapped[list[int]] = mapped_column(ARRAY(SmallInteger))
    document_numbers: Mapped[list[int]] = mapped_column(ARRAY(Integer))
