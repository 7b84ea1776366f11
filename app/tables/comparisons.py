"""Comparisons of two SAEs of one model, feature by feature."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    REAL,
    TIMESTAMP,
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Identity,
    Index,
    SmallInteger,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.tables.base import Base


class Comparison(Base):
    """Two SAEs compared feature by feature, once for both directions: `a` is the one with the lower id.

    `sequence_set_id` is the text that activity was compared on, `tokens` of it counted; null and 0 where directions
    alone were compared. Where an SAE is indexed on other text by now, what is said of activity is about the former.
    """

    __tablename__ = "comparison"
    __table_args__ = (
        UniqueConstraint("a_id", "b_id"),
        CheckConstraint("a_id < b_id", name="order"),
        Index("ix_comparison_b_id", "b_id"),
    )

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    a_id: Mapped[int] = mapped_column(ForeignKey("sae.id", ondelete="CASCADE"))
    b_id: Mapped[int] = mapped_column(ForeignKey("sae.id", ondelete="CASCADE"))
    sequence_set_id: Mapped[int | None] = mapped_column(ForeignKey("sequence_set.id", ondelete="CASCADE"))
    tokens: Mapped[int] = mapped_column(BigInteger)
    provenance: Mapped[dict[str, Any]] = mapped_column(JSONB)
    summary: Mapped[dict[str, Any]] = mapped_column(JSONB)
    created_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())


class FeatureMatch(Base):
    """One feature of one of the two SAEs (`side` 0 is `a`, 1 is `b`), with its counterparts in the other.

    A row a feature, not arrays in the comparison: a page shows one feature, or the first of an order. `near`,
    `coactive` and `parent` are numbers of the other SAE's features, null for none; `sae_core.matching.match` defines
    them.
    """

    __tablename__ = "feature_match"
    __table_args__ = (
        Index(
            "ix_feature_match_near",
            "comparison_id",
            "side",
            "near_cosine",
            "feature",
            postgresql_where=text("near_matched"),
        ),
        Index(
            "ix_feature_match_coactive",
            "comparison_id",
            "side",
            "coactive_correlation",
            "feature",
            postgresql_where=text("coactive_matched"),
        ),
        Index(
            "ix_feature_match_unmatched",
            "comparison_id",
            "side",
            "count",
            "feature",
            postgresql_where=text("NOT near_matched AND NOT coactive_matched"),
        ),
        Index(
            "ix_feature_match_parts",
            "comparison_id",
            "side",
            "parts",
            "feature",
            postgresql_where=text("parts > 1"),
        ),
        Index(
            "ix_feature_match_parent",
            "comparison_id",
            "side",
            "parent",
            postgresql_where=text("parent IS NOT NULL"),
        ),
    )

    comparison_id: Mapped[int] = mapped_column(ForeignKey("comparison.id", ondelete="CASCADE"), primary_key=True)
    side: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    feature: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    count: Mapped[int] = mapped_column(BigInteger)
    near: Mapped[int | None]
    near_cosine: Mapped[float] = mapped_column(REAL)
    near_correlation: Mapped[float] = mapped_column(REAL)
    near_joint: Mapped[int]
    near_matched: Mapped[bool]
    coactive: Mapped[int | None]
    coactive_cosine: Mapped[float] = mapped_column(REAL)
    coactive_correlation: Mapped[float] = mapped_column(REAL)
    coactive_joint: Mapped[int]
    coactive_matched: Mapped[bool]
    parent: Mapped[int | None]
    parent_cosine: Mapped[float] = mapped_column(REAL)
    parent_correlation: Mapped[float] = mapped_column(REAL)
    parent_joint: Mapped[int]
    parts: Mapped[int]
    covered: Mapped[int]
