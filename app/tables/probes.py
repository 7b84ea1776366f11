"""Probes that their authors saved."""

from datetime import datetime
from typing import Any

from sqlalchemy import TIMESTAMP, ForeignKey, Identity, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.tables.base import Base


class SavedProbe(Base):
    """A prompt with its settings, saved on request. `public_id` is part of its URL and cannot be guessed.

    `fields` are names and values of the probe's form. The result is not kept: it is computed when the page is opened.
    """

    __tablename__ = "saved_probe"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    public_id: Mapped[str] = mapped_column(unique=True)
    sae_id: Mapped[int] = mapped_column(ForeignKey("sae.id", ondelete="CASCADE"), index=True)
    title: Mapped[str]
    author: Mapped[str]
    owner_id: Mapped[int] = mapped_column(ForeignKey("person.id"), index=True)
    fields: Mapped[list[Any]] = mapped_column(JSONB)
    created_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())
