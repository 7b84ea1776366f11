"""Sparse autoencoders and their published indexes."""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    ARRAY,
    REAL,
    TIMESTAMP,
    BigInteger,
    CheckConstraint,
    ForeignKey,
    Identity,
    Integer,
    Text,
    cast,
    func,
    select,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, column_property, mapped_column

from app.tables.base import Base


class LabelCount(Base):
    """How often labels of an SAE changed: the sum over its slots, which grows with every commit.

    A change takes a slot that nobody holds, or makes one: so one slow change never holds another's.
    """

    __tablename__ = "label_count"

    slot: Mapped[int] = mapped_column(Identity(), primary_key=True)
    sae_id: Mapped[int] = mapped_column(ForeignKey("sae.id", ondelete="CASCADE"), index=True)
    changes: Mapped[int] = mapped_column(BigInteger)


class Sae(Base):
    """A dictionary on one hook point of one model.

    `hook_out` is what a transcoder reconstructs; `artifact` is the folder of the weights, under SEESAE_ARTIFACTS;
    `label_changes` counts writes of labels and of measured effects, so that a page can tell if either has changed.
    """

    __tablename__ = "sae"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    slug: Mapped[str] = mapped_column(unique=True)
    model_id: Mapped[int] = mapped_column(ForeignKey("language_model.id"), index=True)
    hook: Mapped[str]
    hook_out: Mapped[str | None]
    architecture: Mapped[str]
    d_in: Mapped[int]
    d_sae: Mapped[int]
    k: Mapped[float | None] = mapped_column(REAL)
    artifact: Mapped[str]
    weights_sha256: Mapped[str]
    config: Mapped[dict[str, Any]] = mapped_column(JSONB)
    metrics: Mapped[dict[str, Any]] = mapped_column(JSONB)
    created_by: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())
    current_index_id: Mapped[int | None] = mapped_column(
        ForeignKey("feature_index.id", ondelete="SET NULL", use_alter=True)
    )
    label_changes: Mapped[int] = column_property(
        select(cast(func.coalesce(func.sum(LabelCount.changes), 0), BigInteger))
        .where(LabelCount.sae_id == id)
        .correlate_except(LabelCount)
        .scalar_subquery()
    )


class FeatureIndex(Base):
    """All statistics of one SAE over one sequence set.

    It is written in the transaction that publishes it, so it has no earlier state. A retired index keeps its row
    as history; its features and examples are dropped. Indexes of equal `provenance` (hashes, seeds, thresholds) are
    equal.

    `density_counts`, `redundancy_counts`, `dead`, `coherent` and `health` are counted over all features when it is
    published. `coherent` is the number of features that have a coherence.
    """

    __tablename__ = "feature_index"
    __table_args__ = (CheckConstraint("state IN ('published', 'retired')", name="state"),)

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    sae_id: Mapped[int] = mapped_column(ForeignKey("sae.id", ondelete="CASCADE"), index=True)
    sequence_set_id: Mapped[int] = mapped_column(ForeignKey("sequence_set.id"))
    state: Mapped[str]
    tokens: Mapped[int] = mapped_column(BigInteger)
    topics: Mapped[list[str]] = mapped_column(ARRAY(Text))
    provenance: Mapped[dict[str, Any]] = mapped_column(JSONB)
    density_counts: Mapped[list[int]] = mapped_column(ARRAY(Integer), server_default="{}")
    redundancy_counts: Mapped[list[int]] = mapped_column(ARRAY(Integer), server_default="{}")
    dead: Mapped[int] = mapped_column(server_default="0")
    coherent: Mapped[int] = mapped_column(server_default="0")
    health: Mapped[dict[str, int]] = mapped_column(JSONB, server_default="{}")
    published_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())
    retired_at: Mapped[datetime | None] = mapped_column(TIMESTAMP(timezone=True))


class FeatureMap(Base):
    """Coordinates of an index's features on its map, by feature; it is made after the index is published.

    A table of its own, because every page reads the index' row and only one reads these arrays.
    """

    __tablename__ = "feature_map"

    index_id: Mapped[int] = mapped_column(ForeignKey("feature_index.id", ondelete="CASCADE"), primary_key=True)
    x: Mapped[list[float]] = mapped_column(ARRAY(REAL))
    y: Mapped[list[float]] = mapped_column(ARRAY(REAL))
    settings: Mapped[dict[str, Any]] = mapped_column(JSONB)
