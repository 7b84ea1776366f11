"""Saved lists of features: named, ordered, with a note per feature."""

from datetime import datetime

from sqlalchemy import TIMESTAMP, ForeignKey, Identity, Index, UniqueConstraint, func
from sqlalchemy.orm import Mapped, mapped_column

from app.tables.base import Base


class SavedList(Base):
    """A list of features of one or more SAEs. `public_id` is part of its URL and cannot be guessed.

    `version` grows by one with every change of the list or of anything in it; `text_version` is that of the last change
    of name or description.
    """

    __tablename__ = "saved_list"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    public_id: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str]
    description: Mapped[str]
    author: Mapped[str]
    owner_id: Mapped[int] = mapped_column(ForeignKey("person.id"), index=True)
    version: Mapped[int] = mapped_column(server_default="1")
    text_version: Mapped[int] = mapped_column(server_default="1")
    created_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now(), index=True)


class SavedListItem(Base):
    """A feature in a list. Positions only give the order: a removed feature leaves a gap.

    `note_version` is the list's version at which the note was last written. The order is checked when a statement ends,
    so that one statement can swap positions.
    """

    __tablename__ = "saved_list_item"
    __table_args__ = (
        UniqueConstraint("list_id", "position", deferrable=True, initially="IMMEDIATE"),
        Index("ix_saved_list_item_feature", "sae_id", "feature"),
    )

    list_id: Mapped[int] = mapped_column(ForeignKey("saved_list.id", ondelete="CASCADE"), primary_key=True)
    sae_id: Mapped[int] = mapped_column(ForeignKey("sae.id", ondelete="CASCADE"), primary_key=True)
    feature: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    position: Mapped[int]
    note: Mapped[str]
    note_version: Mapped[int]
