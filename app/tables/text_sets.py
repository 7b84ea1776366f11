"""Text sets: named texts with labels, groups or pairs."""

from datetime import datetime
from typing import Any

from sqlalchemy import TIMESTAMP, CheckConstraint, Double, ForeignKey, Identity, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.tables.base import Base


class TextSet(Base):
    """Texts under a name, which is part of their URL. Texts never change; a set is made and deleted as a whole.

    `counts` holds what pages show of the texts without reading them, as `app.queries.text_sets.Counts` defines it.
    """

    __tablename__ = "text_set"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    description: Mapped[str]
    source: Mapped[str]
    licence: Mapped[str]
    url: Mapped[str]
    offensive: Mapped[bool]
    hash: Mapped[str]
    counts: Mapped[dict[str, Any]] = mapped_column(JSONB)
    owner_id: Mapped[int] = mapped_column(ForeignKey("person.id"), index=True)
    created_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())


class TextSetItem(Base):
    """One text of a set; `number` counts from 0 in the order of the file.

    Texts of one `pair` belong together, and `label` says which side of it a text is. `chat` holds the turns of a
    conversation, whose words `text` repeats. `fields` holds what else the text came with.
    """

    __tablename__ = "text_set_item"
    __table_args__ = (CheckConstraint("split IN ('train', 'calibration', 'test')", name="split"),)

    set_id: Mapped[int] = mapped_column(ForeignKey("text_set.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    text: Mapped[str]
    chat: Mapped[list[Any] | None] = mapped_column(JSONB(none_as_null=True))
    label: Mapped[str | None]
    group: Mapped[str | None]
    pair: Mapped[str | None]
    score: Mapped[float | None] = mapped_column(Double)
    split: Mapped[str]
    fields: Mapped[dict[str, Any]] = mapped_column(JSONB)
