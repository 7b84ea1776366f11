"""Edits that people save: interventions with their evidence."""

from datetime import datetime
from typing import Any

from sqlalchemy import TIMESTAMP, ForeignKey, Identity, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.tables.base import Base


class SavedEdit(Base):
    """Interventions on one model under a name, which is part of its URL.

    `file` is the JSON that `sae_core.apply_edits` reads: it holds all vectors, so an edit outlives its SAEs. Neither it
    nor the interventions ever change; `notes` and `checks` can, and `measured` is what the newest measurement found.
    """

    __tablename__ = "saved_edit"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    title: Mapped[str]
    author: Mapped[str]
    owner_id: Mapped[int] = mapped_column(ForeignKey("person.id"), index=True)
    notes: Mapped[str]
    model_id: Mapped[int] = mapped_column(ForeignKey("language_model.id", ondelete="CASCADE"), index=True)
    interventions: Mapped[list[Any]] = mapped_column(JSONB)
    prompts: Mapped[list[Any]] = mapped_column(JSONB)
    checks: Mapped[dict[str, Any]] = mapped_column(JSONB)
    file: Mapped[str] = mapped_column(deferred=True)
    measured: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    measured_at: Mapped[datetime | None] = mapped_column(TIMESTAMP(timezone=True))
    run_id: Mapped[int | None] = mapped_column(ForeignKey("run.id", ondelete="SET NULL"), index=True)
    created_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())


class SavedEditSae(Base):
    """An SAE that an edit changes features of, the first one first; `sae_id` is null once it was deleted."""

    __tablename__ = "saved_edit_sae"

    edit_id: Mapped[int] = mapped_column(ForeignKey("saved_edit.id", ondelete="CASCADE"), primary_key=True)
    place: Mapped[int] = mapped_column(primary_key=True)
    slug: Mapped[str]
    sae_id: Mapped[int | None] = mapped_column(ForeignKey("sae.id", ondelete="SET NULL"), index=True)
