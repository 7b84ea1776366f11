"""Statistics of features and the examples that show them, one partition per index.

The partitions are written only by `app.queries.publish`. They carry no foreign key to `feature_index`: checking one
for every copied row would cost more than the copy, and a partition lives and dies with its index anyway.
"""

from typing import TYPE_CHECKING, Any

from sqlalchemy import ARRAY, REAL, BigInteger, Column, Double, Index, Integer, SmallInteger, String, Table, Text, text
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.types import TypeEngine

from app.tables.base import Base
from sae_core.statistics.spec import STATISTICS, SqlType

_ints: Any = ARRAY(Integer)
_reals: Any = ARRAY(REAL)
_TYPES: dict[SqlType, TypeEngine[Any]] = {
    "bigint": BigInteger(),
    "double precision": Double(),
    "real": REAL(),
    "integer[]": ARRAY(Integer),
    "smallint[]": ARRAY(SmallInteger),
    "real[]": ARRAY(REAL),
    "text[]": ARRAY(Text),
}

TOP_TOKENS = "array_to_tsvector(array_remove(string_to_array(lower(top_tokens_text), ' '), ''))"
"""The top tokens for full text search. Postgres' own parser would leave out tokens that are not words."""


NO_COHERENCE = "'-1000'::real"
"""What a feature without a coherence is sorted by: none comes near it, so those features come last."""


class Feature(Base):
    """The statistics of one feature: a column per declaration of `sae_core.statistics.spec`.

    Arrays that belong together have equal lengths, best first. `top_tokens_text` is searched: the words of the top
    tokens, and those tokens that have none, with blanks between them.
    """

    __table__ = Table(
        "feature",
        Base.metadata,
        Column("index_id", Integer, primary_key=True, autoincrement=False),
        Column("number", Integer, primary_key=True, autoincrement=False),
        *(Column(known.name, _TYPES[known.sql_type], nullable=not known.required) for known in STATISTICS),
        Column("top_tokens_text", String, nullable=False),
        Index("ix_feature_density", "index_id", "density", "number"),
        Index("ix_feature_max", "index_id", "max", "number"),
        Index("ix_feature_mean", "index_id", "mean", "number"),
        Index(
            "ix_feature_coherence",
            "index_id",
            text(f"coalesce(coherence, {NO_COHERENCE})"),
            "number",
            postgresql_include=["coherence"],
        ),
        Index("ix_feature_health", "health", postgresql_using="gin"),
        Index("ix_feature_topics", "topics", postgresql_using="gin"),
        Index("ix_feature_top_token_ids", "top_token_ids", postgresql_using="gin"),
        Index("ix_feature_promoted_ids", "promoted_ids", postgresql_using="gin"),
        Index("ix_feature_top_tokens", text(TOP_TOKENS), postgresql_using="gin"),
        postgresql_partition_by="LIST (index_id)",
    )

    if TYPE_CHECKING:  # the columns that queries name
        index_id: Mapped[int]
        number: Mapped[int]
        count: Mapped[int]
        density: Mapped[float]
        max: Mapped[float]
        mean: Mapped[float]
        coherence: Mapped[float | None]
        histogram: Mapped[list[int]]
        top_token_ids: Mapped[list[int]]
        top_token_counts: Mapped[list[int]]
        top_token_shares: Mapped[list[float]]
        top_token_means: Mapped[list[float]]
        promoted_ids: Mapped[list[int]]
        near_cosine: Mapped[list[float]]
        topics: Mapped[list[int]]
        health: Mapped[list[str]]
        top_tokens_text: Mapped[str]


class ExampleBand(Base):
    """The examples of one feature in one band, best first: band 0 holds the top examples, 1 to 5 the quantile bands.

    One row per band, not per example: the headers of a row and of its arrays cost Postgres more than a short example
    does, and a page reads them together. Example `i` is token `positions[i]` of sequence `sequences[i]`. The
    feature's non-zero activations in that sequence are `lengths[i]` consecutive entries of `active_positions` and
    `active_values`, after those of the examples before.
    """

    __tablename__ = "example_band"
    __table_args__ = ({"postgresql_partition_by": "LIST (index_id)"},)

    index_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    feature: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    band: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    sequences: Mapped[list[int]] = mapped_column(_ints)
    positions: Mapped[list[int]] = mapped_column(ARRAY(SmallInteger))
    activations: Mapped[list[float]] = mapped_column(_reals)
    lengths: Mapped[list[int]] = mapped_column(ARRAY(SmallInteger))
    active_positions: Mapped[list[int]] = mapped_column(ARRAY(SmallInteger))
    active_values: Mapped[list[float]] = mapped_column(_reals)
