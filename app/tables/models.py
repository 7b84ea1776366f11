"""Language models and their vocabularies."""

from datetime import datetime

from sqlalchemy import TIMESTAMP, ForeignKey, Identity, Index, LargeBinary, func, text, true
from sqlalchemy.orm import Mapped, mapped_column

from app.tables.base import Base


class LanguageModel(Base):
    """A causal language model, known by the hashes of its weights and tokenizer."""

    __tablename__ = "language_model"
    __table_args__ = (
        Index(
            "ux_language_model_hashes",
            "weights_sha256",
            "tokenizer_sha256",
            unique=True,
            postgresql_where=text("weights_sha256 <> 'none'"),
        ),
    )

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    source: Mapped[str]
    n_layers: Mapped[int]
    d_model: Mapped[int]
    vocab_size: Mapped[int]
    weights_sha256: Mapped[str]
    tokenizer_sha256: Mapped[str]
    bos_token_id: Mapped[int | None]
    created_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())


class Token(Base):
    """One vocabulary entry: its raw bytes, which may be a part of a character."""

    __tablename__ = "token"
    __table_args__ = (Index("ix_token_bytes", "bytes", postgresql_using="hash"),)

    model_id: Mapped[int] = mapped_column(ForeignKey("language_model.id", ondelete="CASCADE"), primary_key=True)
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    bytes: Mapped[bytes] = mapped_column(LargeBinary)
    special: Mapped[bool] = mapped_column(server_default=~true())
