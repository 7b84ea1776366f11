"""What an SAE makes of text sets, and what distinguishes the texts of two sides."""

from datetime import datetime
from typing import Any

from sqlalchemy import ARRAY, REAL, TIMESTAMP, Double, ForeignKey, Identity, Index, Integer, UniqueConstraint, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.tables.base import Base


class TextSetReading(Base):
    """The reading of one set by one SAE: the folder `readings/<key>` has it token by token.

    `set_hash` is that of the texts that were read. `note` says what a reader of figures should know, such as that chats
    were read as plain texts.
    """

    __tablename__ = "text_set_reading"
    __table_args__ = (UniqueConstraint("sae_id", "set_id", "max_tokens"),)

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    sae_id: Mapped[int] = mapped_column(ForeignKey("sae.id", ondelete="CASCADE"))
    set_id: Mapped[int] = mapped_column(ForeignKey("text_set.id", ondelete="CASCADE"), index=True)
    max_tokens: Mapped[int]
    key: Mapped[str]
    set_hash: Mapped[str]
    texts: Mapped[int]
    tokens: Mapped[int]
    truncated: Mapped[int]
    note: Mapped[str]
    run_id: Mapped[int | None] = mapped_column(ForeignKey("run.id", ondelete="SET NULL"), index=True)
    read_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())


class TextSetFeature(Base):
    """The texts of a reading on which a feature is active, ascending, and its largest activation on each."""

    __tablename__ = "text_set_feature"

    reading_id: Mapped[int] = mapped_column(ForeignKey("text_set_reading.id", ondelete="CASCADE"), primary_key=True)
    feature: Mapped[int] = mapped_column(Integer, primary_key=True)
    numbers: Mapped[list[int]] = mapped_column(ARRAY(Integer))
    maxima: Mapped[list[float]] = mapped_column(ARRAY(REAL))


class TextComparison(Base):
    """Two sides of texts, compared feature by feature; a side is a set, or the texts of one label of it.

    `detail` holds counts, settings, words and baselines, as docs/comparing-texts.md describes them.
    """

    __tablename__ = "text_comparison"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    sae_id: Mapped[int] = mapped_column(ForeignKey("sae.id", ondelete="CASCADE"), index=True)
    a_set_id: Mapped[int] = mapped_column(ForeignKey("text_set.id", ondelete="CASCADE"), index=True)
    a_label: Mapped[str | None]
    b_set_id: Mapped[int] = mapped_column(ForeignKey("text_set.id", ondelete="CASCADE"), index=True)
    b_label: Mapped[str | None]
    detail: Mapped[dict[str, Any]] = mapped_column(JSONB)
    run_id: Mapped[int | None] = mapped_column(ForeignKey("run.id", ondelete="SET NULL"), index=True)
    created_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())


class TextComparisonFeature(Base):
    """What one feature tells of the sides of a comparison, as `sae_core.contrast` defines each figure.

    `strength` is the distance of `auroc` from one half. `examples` are kept for the strongest features alone.
    """

    __tablename__ = "text_comparison_feature"
    __table_args__ = (Index("ix_text_comparison_feature_strength", "comparison_id", "strength", "feature"),)

    comparison_id: Mapped[int] = mapped_column(ForeignKey("text_comparison.id", ondelete="CASCADE"), primary_key=True)
    feature: Mapped[int] = mapped_column(Integer, primary_key=True)
    active_a: Mapped[int]
    active_b: Mapped[int]
    auroc: Mapped[float] = mapped_column(Double)
    auroc_low: Mapped[float] = mapped_column(Double)
    auroc_high: Mapped[float] = mapped_column(Double)
    rate_a: Mapped[float] = mapped_column(Double)
    rate_b: Mapped[float] = mapped_column(Double)
    difference: Mapped[float] = mapped_column(Double)
    difference_low: Mapped[float] = mapped_column(Double)
    difference_high: Mapped[float] = mapped_column(Double)
    lift: Mapped[float | None] = mapped_column(Double)
    d: Mapped[float | None] = mapped_column(Double)
    p: Mapped[float] = mapped_column(Double)
    q: Mapped[float] = mapped_column(Double)
    test_auroc: Mapped[float | None] = mapped_column(Double)
    test_low: Mapped[float | None] = mapped_column(Double)
    test_high: Mapped[float | None] = mapped_column(Double)
    matched_auroc: Mapped[float | None] = mapped_column(Double)
    token_id: Mapped[int | None]
    token_share: Mapped[float] = mapped_column(Double)
    first_share: Mapped[float] = mapped_column(Double)
    last_share: Mapped[float] = mapped_column(Double)
    strength: Mapped[float] = mapped_column(Double)
    examples: Mapped[list[Any] | None] = mapped_column(JSONB(none_as_null=True))
