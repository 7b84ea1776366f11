"""Suggestions of machines for labels, and the answers that were paid for."""

from datetime import datetime
from typing import Any

from sqlalchemy import TIMESTAMP, ForeignKey, Identity, Index, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.tables.base import Base


class Suggestion(Base):
    """One suggestion for a feature, or why there is none: never a label, and never counted as a person's.

    Its text never changes, because labels may come from it: another request makes another row. `key` is the hash of
    the request, or of a sentence from statistics; `prompt` is that of the template. Exactly one of `text` and `error`
    is set.
    """

    __tablename__ = "suggestion"
    __table_args__ = (Index("uq_suggestion_sae_id_feature_key", "sae_id", "feature", "key", unique=True),)

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    sae_id: Mapped[int] = mapped_column(ForeignKey("sae.id", ondelete="CASCADE"))
    feature: Mapped[int]
    key: Mapped[str]
    source: Mapped[str]
    model: Mapped[str]
    prompt: Mapped[str]
    text: Mapped[str | None]
    error: Mapped[str | None]
    scores: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    index_id: Mapped[int | None] = mapped_column(ForeignKey("feature_index.id", ondelete="SET NULL"), index=True)
    run_id: Mapped[int | None] = mapped_column(ForeignKey("run.id", ondelete="SET NULL"), index=True)
    created_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())


class LlmAnswer(Base):
    """One answer of an endpoint, kept so that the same request is never paid for twice; `key` is the request's hash."""

    __tablename__ = "llm_answer"

    key: Mapped[str] = mapped_column(primary_key=True)
    model: Mapped[str]
    text: Mapped[str]
    finished: Mapped[bool]
    tokens_in: Mapped[int]
    tokens_out: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())
