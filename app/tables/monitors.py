"""Monitors: what is watched, what it did on texts that were held out, and what it has seen since."""

from datetime import datetime
from typing import Any

from sqlalchemy import ARRAY, TIMESTAMP, BigInteger, CheckConstraint, Double, ForeignKey, Identity, Index, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.tables.base import Base


class SavedMonitor(Base):
    """A monitor under a name, which is part of its URL.

    `files` holds a file of `sae_core.monitoring` for each candidate that runs on a model, with all vectors, so a
    monitor outlives its SAE; `candidate` names the one that is used. `figures` is what the comparison of all candidates
    found, as `app.services.monitor_figures` defines it.
    """

    __tablename__ = "monitor"
    __table_args__ = (CheckConstraint("state IN ('ready', 'paused')", name="state"),)

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    notes: Mapped[str] = mapped_column(server_default="")
    sae_id: Mapped[int | None] = mapped_column(ForeignKey("sae.id", ondelete="SET NULL"), index=True)
    sae: Mapped[str]
    sae_sha256: Mapped[str]
    model_id: Mapped[int | None] = mapped_column(ForeignKey("language_model.id", ondelete="SET NULL"), index=True)
    model: Mapped[str]
    state: Mapped[str] = mapped_column(server_default="ready")
    candidate: Mapped[str]
    threshold: Mapped[float] = mapped_column(Double)
    fpr: Mapped[float] = mapped_column(Double)
    tokens: Mapped[str]
    pool: Mapped[str]
    keep_text: Mapped[bool] = mapped_column(server_default="false")
    figures: Mapped[dict[str, Any]] = mapped_column(JSONB)
    files: Mapped[dict[str, Any]] = mapped_column(JSONB, deferred=True)
    owner_id: Mapped[int] = mapped_column(ForeignKey("person.id"), index=True)
    run_id: Mapped[int | None] = mapped_column(ForeignKey("run.id", ondelete="SET NULL"), unique=True)
    created_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())


class MonitorScores(Base):
    """Scores of texts that came together, in order, with how many of them alerted. No text is kept here.

    `part` is the place of the first text in a scan, which writes each part once.
    """

    __tablename__ = "monitor_scores"
    __table_args__ = (
        CheckConstraint("source IN ('check', 'scan', 'live')", name="source"),
        Index("ix_monitor_scores_of_monitor", "monitor_id", "id"),
        Index("uq_monitor_scores_run_part", "run_id", "part", unique=True),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    monitor_id: Mapped[int] = mapped_column(ForeignKey("monitor.id", ondelete="CASCADE"))
    source: Mapped[str]
    run_id: Mapped[int | None] = mapped_column(ForeignKey("run.id", ondelete="SET NULL"))
    part: Mapped[int | None]
    scores: Mapped[list[float]] = mapped_column(ARRAY(Double))
    alerts: Mapped[int]
    at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())


class MonitorAlert(Base):
    """A text that scored above the threshold.

    `tokens` are the watched tokens `{"position", "value"}`, with their `text` where the monitor keeps text. `place`
    says which text of a scan it was. `sha256` of the text tells whether the same one alerted before. `activity_id` is
    the act that told of it.
    """

    __tablename__ = "monitor_alert"
    __table_args__ = (
        CheckConstraint("source IN ('check', 'scan', 'live')", name="source"),
        Index("ix_monitor_alert_of_monitor", "monitor_id", "id"),
    )

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    monitor_id: Mapped[int] = mapped_column(ForeignKey("monitor.id", ondelete="CASCADE"))
    score: Mapped[float] = mapped_column(Double)
    threshold: Mapped[float] = mapped_column(Double)
    source: Mapped[str]
    run_id: Mapped[int | None] = mapped_column(ForeignKey("run.id", ondelete="SET NULL"), index=True)
    place: Mapped[str] = mapped_column(server_default="")
    sha256: Mapped[str]
    text: Mapped[str | None]
    tokens: Mapped[list[Any]] = mapped_column(JSONB)
    activity_id: Mapped[int | None] = mapped_column(ForeignKey("activity.id", ondelete="SET NULL"), index=True)
    acknowledged_by: Mapped[int | None] = mapped_column(ForeignKey("person.id"), index=True)
    acknowledged_at: Mapped[datetime | None] = mapped_column(TIMESTAMP(timezone=True))
    note: Mapped[str] = mapped_column(server_default="")
    created_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())
