"""Labels of features, with the history of every change, and what people say about them."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    ARRAY,
    TIMESTAMP,
    BigInteger,
    CheckConstraint,
    Computed,
    ForeignKey,
    Identity,
    Index,
    Integer,
    SmallInteger,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB, TSVECTOR
from sqlalchemy.orm import Mapped, mapped_column

from app.tables.base import Base

SEARCH = "to_tsvector('simple', explanation) || to_tsvector('english', explanation)"

CONTENT = ("author", "status", "explanation", "categories", "interpretability", "confidence", "cant_tell")
"""Columns that a label shares with its revisions."""
SUBMITTED = "status = 'submitted' AND NOT withheld"


class Label(Base):
    """One person's label of one feature in one set. It names the SAE, not an index, and so survives re-indexing.

    `author` is the person's name. A label says what a feature responds to, or that its author cannot tell. It is
    `withheld` in a blind set, until the set is closed.
    """

    __tablename__ = "label"
    __table_args__ = (
        UniqueConstraint("sae_id", "feature", "label_set_id", "person_id"),
        CheckConstraint("status IN ('draft', 'submitted', 'discarded')", name="status"),
        Index("ix_label_search", "search", postgresql_using="gin"),
        Index("ix_label_submitted", "sae_id", "feature", postgresql_where=text(SUBMITTED)),
        Index("ix_label_categorised", "sae_id", postgresql_where=text("cardinality(categories) > 0")),
        Index("ix_label_of_set", "label_set_id", "feature"),
    )

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    sae_id: Mapped[int] = mapped_column(ForeignKey("sae.id", ondelete="CASCADE"))
    feature: Mapped[int]
    label_set_id: Mapped[int] = mapped_column(ForeignKey("label_set.id", ondelete="CASCADE"))
    person_id: Mapped[int] = mapped_column(ForeignKey("person.id"), index=True)
    author: Mapped[str]
    status: Mapped[str]
    explanation: Mapped[str]
    categories: Mapped[list[str]] = mapped_column(ARRAY(Text))
    interpretability: Mapped[int | None] = mapped_column(SmallInteger)
    confidence: Mapped[int | None] = mapped_column(SmallInteger)
    cant_tell: Mapped[bool] = mapped_column(server_default="false")
    withheld: Mapped[bool] = mapped_column(server_default="false")
    version: Mapped[int]
    created_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())
    search: Mapped[str] = mapped_column(TSVECTOR, Computed(SEARCH, persisted=True))


class LabelRevision(Base):
    """A label as it stood at one version; the newest is the label itself. Rows are added, and never change.

    `person_id` did the `act` that made it, which is not the label's author where an admin claimed it. `index_id` is the
    index whose examples were shown, `guideline_version` the guideline that was gone by, `suggestion_id` the machine's
    suggestion whose words it has.
    """

    __tablename__ = "label_revision"

    label_id: Mapped[int] = mapped_column(ForeignKey("label.id", ondelete="CASCADE"), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    person_id: Mapped[int] = mapped_column(ForeignKey("person.id"), index=True)
    act: Mapped[str] = mapped_column(server_default="saved")
    author: Mapped[str]
    status: Mapped[str]
    explanation: Mapped[str]
    categories: Mapped[list[str]] = mapped_column(ARRAY(Text))
    interpretability: Mapped[int | None] = mapped_column(SmallInteger)
    confidence: Mapped[int | None] = mapped_column(SmallInteger)
    cant_tell: Mapped[bool] = mapped_column(server_default="false")
    guideline_version: Mapped[int | None]
    index_id: Mapped[int | None]
    suggestion_id: Mapped[int | None] = mapped_column(ForeignKey("suggestion.id", ondelete="SET NULL"), index=True)
    changed_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())


class LabelDraft(Base):
    """What a person is typing, kept so that a crash loses nothing. Saving the label removes it.

    It is no revision: a label's own status `draft` is what its author chose to keep to themselves.
    """

    __tablename__ = "label_draft"

    label_set_id: Mapped[int] = mapped_column(ForeignKey("label_set.id", ondelete="CASCADE"), primary_key=True)
    feature: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    person_id: Mapped[int] = mapped_column(ForeignKey("person.id", ondelete="CASCADE"), primary_key=True, index=True)
    fields: Mapped[dict[str, Any]] = mapped_column(JSONB)
    updated_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())


class LabelVote(Base):
    """What one person thinks of another's explanation: 1 or -1."""

    __tablename__ = "label_vote"
    __table_args__ = (CheckConstraint("value IN (-1, 1)", name="value"),)

    label_id: Mapped[int] = mapped_column(ForeignKey("label.id", ondelete="CASCADE"), primary_key=True)
    person_id: Mapped[int] = mapped_column(ForeignKey("person.id", ondelete="CASCADE"), primary_key=True, index=True)
    value: Mapped[int] = mapped_column(SmallInteger)
    voted_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())


class LabelDecision(Base):
    """What a reviewer decided that a feature means, beside the labels that stay as they are. The newest one holds.

    `labels` are the ids and versions of the labels that were decided between.
    """

    __tablename__ = "label_decision"
    __table_args__ = (Index("ix_label_decision_of_set", "label_set_id", "feature", "id"),)

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    label_set_id: Mapped[int] = mapped_column(ForeignKey("label_set.id", ondelete="CASCADE"))
    feature: Mapped[int]
    person_id: Mapped[int] = mapped_column(ForeignKey("person.id"), index=True)
    explanation: Mapped[str]
    categories: Mapped[list[str]] = mapped_column(ARRAY(Text))
    interpretability: Mapped[int | None] = mapped_column(SmallInteger)
    note: Mapped[str]
    labels: Mapped[list[Any]] = mapped_column(JSONB)
    guideline_version: Mapped[int | None]
    index_id: Mapped[int | None]
    decided_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())


class Comment(Base):
    """What a person says about a feature in a set, as an answer to another comment or not; `mentions` are people."""

    __tablename__ = "comment"
    __table_args__ = (Index("ix_comment_of_feature", "label_set_id", "feature", "id"),)

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    label_set_id: Mapped[int] = mapped_column(ForeignKey("label_set.id", ondelete="CASCADE"))
    feature: Mapped[int]
    answers: Mapped[int | None] = mapped_column(ForeignKey("comment.id", ondelete="CASCADE"), index=True)
    person_id: Mapped[int] = mapped_column(ForeignKey("person.id"), index=True)
    text: Mapped[str]
    mentions: Mapped[list[int]] = mapped_column(ARRAY(Integer))
    created_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())
    deleted_at: Mapped[datetime | None] = mapped_column(TIMESTAMP(timezone=True))


class Activity(Base):
    """Who did what in a label set or to a monitor, in order.

    `subject` is the id of the label, comment, decision or alert; no text is quoted. Alerts are nobody's act: `alerts`
    says how many a row tells of, and more may join it until `open_until`. `monitor` is the name, which stays when the
    monitor was deleted.
    """

    __tablename__ = "activity"
    __table_args__ = (
        CheckConstraint(
            "num_nonnulls(label_set_id, monitor) = 1 AND (sae_id IS NULL) = (label_set_id IS NULL)", name="of"
        ),
        CheckConstraint("person_id IS NOT NULL OR alerts IS NOT NULL", name="person"),
        Index("ix_activity_of_feature", "label_set_id", "feature", "id"),
        Index("ix_activity_of_monitor", "monitor_id", "id"),
        Index("ix_activity_of_sae", "sae_id", "id"),
        Index("ix_activity_of_sae_feature", "sae_id", "feature", "id"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())
    person_id: Mapped[int | None] = mapped_column(ForeignKey("person.id"), index=True)
    act: Mapped[str]
    sae_id: Mapped[int | None] = mapped_column(ForeignKey("sae.id", ondelete="CASCADE"))
    label_set_id: Mapped[int | None] = mapped_column(ForeignKey("label_set.id", ondelete="CASCADE"))
    monitor_id: Mapped[int | None] = mapped_column(ForeignKey("monitor.id", ondelete="SET NULL"))
    monitor: Mapped[str | None]
    feature: Mapped[int | None]
    subject: Mapped[int | None] = mapped_column(BigInteger)
    alerts: Mapped[int | None]
    open_until: Mapped[datetime | None] = mapped_column(TIMESTAMP(timezone=True))
