"""Blind tests of labels: what is asked, what is true, and what people answered."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    ARRAY,
    REAL,
    TIMESTAMP,
    CheckConstraint,
    ForeignKey,
    Identity,
    Index,
    SmallInteger,
    func,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.tables.base import Base


class BlindTest(Base):
    """One test of a label, as it read then; an intruder test is of a feature, and has no label."""

    __tablename__ = "blind_test"
    __table_args__ = (
        CheckConstraint("kind IN ('detection', 'fuzzing', 'intruder')", name="kind"),
        CheckConstraint("(kind = 'intruder') = (label_id IS NULL)", name="label"),
        Index("ix_blind_test_of_set", "label_set_id", "feature"),
    )

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    label_set_id: Mapped[int] = mapped_column(ForeignKey("label_set.id", ondelete="CASCADE"))
    feature: Mapped[int]
    kind: Mapped[str]
    label_id: Mapped[int | None] = mapped_column(ForeignKey("label.id", ondelete="CASCADE"), index=True)
    explanation: Mapped[str | None]
    items: Mapped[int]
    index_id: Mapped[int]
    seed: Mapped[int]
    created_by: Mapped[int] = mapped_column(ForeignKey("person.id"), index=True)
    created_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())


class BlindTestItem(Base):
    """One question. `shown` is all that a tester sees of its snippets; `hidden`, `truth` and `why` are the answer."""

    __tablename__ = "blind_test_item"

    test_id: Mapped[int] = mapped_column(ForeignKey("blind_test.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    shown: Mapped[list[Any]] = mapped_column(JSONB)
    hidden: Mapped[list[Any]] = mapped_column(JSONB)
    truth: Mapped[int] = mapped_column(SmallInteger)
    why: Mapped[str]


class BlindTestResult(Base):
    """Answers of one person, in the order of the items, with their score. They never change."""

    __tablename__ = "blind_test_result"

    test_id: Mapped[int] = mapped_column(ForeignKey("blind_test.id", ondelete="CASCADE"), primary_key=True)
    person_id: Mapped[int] = mapped_column(ForeignKey("person.id"), primary_key=True, index=True)
    answers: Mapped[list[int]] = mapped_column(ARRAY(SmallInteger))
    confidences: Mapped[list[float] | None] = mapped_column(ARRAY(REAL))
    score: Mapped[dict[str, Any]] = mapped_column(JSONB)
    answered_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())
