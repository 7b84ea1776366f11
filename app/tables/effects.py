"""Measured effects of features on the model's predictions."""

from datetime import datetime
from typing import Any

from sqlalchemy import REAL, TIMESTAMP, ForeignKey, Index, Integer, func
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from app.tables.base import Base


class FeatureEffect(Base):
    """The effect of ablating one feature, against matched controls; a later run replaces it.

    `ratio` is its KL over that of the controls, `low` and `high` the ends of its 95 % interval; all are null where
    too little text was found. `detail` holds the rest, as docs/effects.md describes it. Effects are of the weights, not
    of an index: they outlive a new index.
    """

    __tablename__ = "feature_effect"
    __table_args__ = (Index("ix_feature_effect_ratio", "sae_id", "ratio", "feature"),)

    sae_id: Mapped[int] = mapped_column(ForeignKey("sae.id", ondelete="CASCADE"), primary_key=True)
    feature: Mapped[int] = mapped_column(Integer, primary_key=True)
    run_id: Mapped[int | None] = mapped_column(ForeignKey("run.id", ondelete="SET NULL"), index=True)
    tokens: Mapped[int]
    kl: Mapped[float | None] = mapped_column(REAL)
    delta_loss: Mapped[float | None] = mapped_column(REAL)
    ratio: Mapped[float | None] = mapped_column(REAL)
    low: Mapped[float | None] = mapped_column(REAL)
    high: Mapped[float | None] = mapped_column(REAL)
    detail: Mapped[dict[str, Any]] = mapped_column(JSONB)
    measured_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())
