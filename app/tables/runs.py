"""Runs: long work, its stages and the measurements taken on the way."""

from datetime import datetime
from typing import Any, Literal

from sqlalchemy import TIMESTAMP, BigInteger, CheckConstraint, ForeignKey, Identity, Index, String, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.tables.base import Base

RunState = Literal["queued", "running", "done", "failed", "cancelled"]


class Run(Base):
    """One piece of long work. `stages` is the list that `app.queries.runs.Stage` describes."""

    __tablename__ = "run"
    __table_args__ = (
        CheckConstraint("state IN ('queued', 'running', 'done', 'failed', 'cancelled')", name="state"),
        Index("ix_run_active", "id", postgresql_where=text("state IN ('queued', 'running')")),
        Index("ix_run_queue", "job_id", postgresql_where=text("state = 'queued'")),
    )

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    kind: Mapped[str]
    title: Mapped[str]
    state: Mapped[RunState] = mapped_column(String, server_default="queued")
    params: Mapped[dict[str, Any]] = mapped_column(JSONB)
    stages: Mapped[list[dict[str, Any]]] = mapped_column(JSONB)
    result: Mapped[dict[str, Any] | None] = mapped_column(JSONB)
    error: Mapped[str | None]
    sae_id: Mapped[int | None] = mapped_column(ForeignKey("sae.id", ondelete="SET NULL"), index=True)
    job_id: Mapped[int | None] = mapped_column(BigInteger)
    worker: Mapped[str | None]
    """Host and process that did the last attempt."""
    created_by: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())
    started_at: Mapped[datetime | None] = mapped_column(TIMESTAMP(timezone=True))
    finished_at: Mapped[datetime | None] = mapped_column(TIMESTAMP(timezone=True))
    updated_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())


class RunMetric(Base):
    """Measurements at one step of a run, such as {"loss": 0.4, "explained_variance": 0.79}."""

    __tablename__ = "run_metric"

    run_id: Mapped[int] = mapped_column(ForeignKey("run.id", ondelete="CASCADE"), primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    values: Mapped[dict[str, Any]] = mapped_column(JSONB)


class SaeClaim(Base):
    """The name of an SAE that a run makes. While the run is under way, no other takes the name for another SAE."""

    __tablename__ = "sae_claim"

    slug: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str]
    """Hash of everything that the SAE depends on."""
    run_id: Mapped[int] = mapped_column(ForeignKey("run.id", ondelete="CASCADE"), index=True)


class RunUse(Base):
    """Something that a run uses: while the run is under way, it is neither deleted nor evicted."""

    __tablename__ = "run_use"

    run_id: Mapped[int] = mapped_column(ForeignKey("run.id", ondelete="CASCADE"), primary_key=True)
    subject: Mapped[str] = mapped_column(primary_key=True)
    """A folder under SEESAE_ARTIFACTS, such as "activations/1f3a"; or "model 2", "corpus 2", "sae 2", by id.

    Or "texts 1f3a", the hash of texts that a run reads from outside: if it continues, it knows them again."""
