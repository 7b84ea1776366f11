"""Audits: how a model treats the two sides of pairs, and what changing features does to that."""

from datetime import datetime
from typing import Any

from sqlalchemy import TIMESTAMP, ForeignKey, Identity, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.tables.base import Base


class Audit(Base):
    """What one run found. It outlives its SAE, whose slug stays in `sae`.

    `on` is the name of the text set. `result` is as `app.services.audit_results` defines it. `raw` is a file of JSON
    lines with the values from which anyone computes every figure again.
    """

    __tablename__ = "audit"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    sae_id: Mapped[int | None] = mapped_column(ForeignKey("sae.id", ondelete="SET NULL"), index=True)
    sae: Mapped[str]
    on: Mapped[str]
    measure: Mapped[str]
    score: Mapped[float]
    result: Mapped[dict[str, Any]] = mapped_column(JSONB)
    raw: Mapped[str] = mapped_column(deferred=True)
    run_id: Mapped[int | None] = mapped_column(ForeignKey("run.id", ondelete="SET NULL"), unique=True)
    owner_id: Mapped[int] = mapped_column(ForeignKey("person.id"), index=True)
    created_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())
