"""Label sets: under which rules people label which features, and who labels what next."""

from datetime import datetime
from typing import Any, Literal, get_args

from sqlalchemy import (
    ARRAY,
    TIMESTAMP,
    CheckConstraint,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    String,
    Text,
    UniqueConstraint,
    func,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.tables.base import Base

Order = Literal["assigned", "random", "density", "effect", "disagreement", "fewest"]
"""Order in which the features of a set are offered."""
ORDERS: tuple[str, ...] = get_args(Order)


class LabelSet(Base):
    """A set of labels of one SAE's features. Each SAE has one named default, which takes any feature.

    `scope` says how its features were chosen; `label_set_feature` has them, and is empty for a set that takes any.
    In a `blind` set nobody sees others' labels of a feature before their own is in.
    """

    __tablename__ = "label_set"
    __table_args__ = (
        UniqueConstraint("sae_id", "name"),
        CheckConstraint(f"label_order IN {ORDERS}", name="label_order"),
    )

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    sae_id: Mapped[int] = mapped_column(ForeignKey("sae.id", ondelete="CASCADE"))
    name: Mapped[str]
    needed: Mapped[int] = mapped_column(server_default="1")
    blind: Mapped[bool] = mapped_column(server_default="false")
    label_order: Mapped[Order] = mapped_column(String, server_default="random")
    scope: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default="{}")
    created_by: Mapped[int | None] = mapped_column(ForeignKey("person.id"), index=True)
    created_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())
    closed_at: Mapped[datetime | None] = mapped_column(TIMESTAMP(timezone=True))


class Guideline(Base):
    """What people go by when they label: text in markdown, and the categories to choose from. Versions are kept."""

    __tablename__ = "guideline"

    set_id: Mapped[int] = mapped_column(ForeignKey("label_set.id", ondelete="CASCADE"), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    text: Mapped[str]
    categories: Mapped[list[str]] = mapped_column(ARRAY(Text))
    person_id: Mapped[int] = mapped_column(ForeignKey("person.id"), index=True)
    created_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())


class LabelSetFeature(Base):
    """A feature that a set is about; `place` is its place in the set's own order."""

    __tablename__ = "label_set_feature"

    set_id: Mapped[int] = mapped_column(ForeignKey("label_set.id", ondelete="CASCADE"), primary_key=True)
    feature: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    place: Mapped[int]


class LabelAssignment(Base):
    """A feature that one person is asked to label."""

    __tablename__ = "label_assignment"
    __table_args__ = (
        ForeignKeyConstraint(
            ["set_id", "feature"], ["label_set_feature.set_id", "label_set_feature.feature"], ondelete="CASCADE"
        ),
    )

    set_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    feature: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    person_id: Mapped[int] = mapped_column(ForeignKey("person.id", ondelete="CASCADE"), primary_key=True, index=True)


class LabelLease(Base):
    """Who labels a feature of a set just now. One person has it until the lease ends."""

    __tablename__ = "label_lease"
    __table_args__ = (
        ForeignKeyConstraint(
            ["set_id", "feature"], ["label_set_feature.set_id", "label_set_feature.feature"], ondelete="CASCADE"
        ),
        Index("ix_label_lease_person", "set_id", "person_id"),
    )

    set_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    feature: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    person_id: Mapped[int] = mapped_column(ForeignKey("person.id", ondelete="CASCADE"), index=True)
    leased_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())
    expires_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True))


class LabelSkip(Base):
    """A feature that a person passed over; it comes back to them last."""

    __tablename__ = "label_skip"
    __table_args__ = (
        ForeignKeyConstraint(
            ["set_id", "feature"], ["label_set_feature.set_id", "label_set_feature.feature"], ondelete="CASCADE"
        ),
    )

    set_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    feature: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    person_id: Mapped[int] = mapped_column(ForeignKey("person.id", ondelete="CASCADE"), primary_key=True, index=True)
    skipped_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())
