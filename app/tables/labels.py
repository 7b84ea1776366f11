"""Labels of features, with the history of every change."""

from datetime import datetime

from sqlalchemy import (
    ARRAY,
    TIMESTAMP,
    CheckConstraint,
    Computed,
    ForeignKey,
    Identity,
    Index,
    SmallInteger,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import TSVECTOR
from sqlalchemy.orm import Mapped, mapped_column

from app.tables.base import Base

SEARCH = "to_tsvector('simple', explanation) || to_tsvector('english', explanation)"


class Label(Base):
    """One person's label of one feature in one set. It names the SAE, not an index, and so survives re-indexing."""

    __tablename__ = "label"
    __table_args__ = (
        UniqueConstraint("sae_id", "feature", "author", "label_set"),
        CheckConstraint("status IN ('draft', 'submitted')", name="status"),
        Index("ix_label_search", "search", postgresql_using="gin"),
        Index("ix_label_submitted", "sae_id", "feature", postgresql_where=text("status = 'submitted'")),
        Index("ix_label_categorised", "sae_id", postgresql_where=text("cardinality(categories) > 0")),
    )

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    sae_id: Mapped[int] = mapped_column(ForeignKey("sae.id", ondelete="CASCADE"))
    feature: Mapped[int]
    author: Mapped[str]
    label_set: Mapped[str] = mapped_column(server_default="default")
    status: Mapped[str]
    explanation: Mapped[str]
    categories: Mapped[list[str]] = mapped_column(ARRAY(Text))
    interpretability: Mapped[int | None] = mapped_column(SmallInteger)
    confidence: Mapped[int | None] = mapped_column(SmallInteger)
    version: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())
    search: Mapped[str] = mapped_column(TSVECTOR, Computed(SEARCH, persisted=True))


class LabelRevision(Base):
    """A label as it stood at one version; the newest is the label itself."""

    __tablename__ = "label_revision"

    label_id: Mapped[int] = mapped_column(ForeignKey("label.id", ondelete="CASCADE"), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    status: Mapped[str]
    explanation: Mapped[str]
    categories: Mapped[list[str]] = mapped_column(ARRAY(Text))
    interpretability: Mapped[int | None] = mapped_column(SmallInteger)
    confidence: Mapped[int | None] = mapped_column(SmallInteger)
    changed_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())
