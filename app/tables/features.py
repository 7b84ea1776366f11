"""Statistics of features and the examples that show them, one partition an index.

The partitions are written only by `app.queries.publish`. They carry no foreign key to `feature_index`: checking one
for every copied row would cost more than the copy, and a partition lives and dies with its index anyway.
"""

from typing import Any

from sqlalchemy import ARRAY, REAL, BigInteger, Double, Index, Integer, SmallInteger, Text, text
from sqlalchemy.orm import Mapped, mapped_column

from app.tables.base import Base

_ints: Any = ARRAY(Integer)
_reals: Any = ARRAY(REAL)


TOP_TOKENS = "array_to_tsvector(array_remove(string_to_array(lower(top_tokens_text), ' '), ''))"
"""The top tokens for full text. Postgres' own parser would leave out what is no word, which here is what was meant."""


class Feature(Base):
    """The statistics of one feature. Arrays that belong together have equal lengths, best first.

    `top_tokens_text` is there to be searched: the words of the top tokens, and those tokens that have none, with blanks
    between them.
    """

    __tablename__ = "feature"
    __table_args__ = (
        Index("ix_feature_density", "index_id", "density", "number"),
        Index("ix_feature_max", "index_id", "max", "number"),
        Index("ix_feature_mean", "index_id", "mean", "number"),
        Index("ix_feature_health", "health", postgresql_using="gin"),
        Index("ix_feature_topics", "topics", postgresql_using="gin"),
        Index("ix_feature_top_token_ids", "top_token_ids", postgresql_using="gin"),
        Index("ix_feature_promoted_ids", "promoted_ids", postgresql_using="gin"),
        Index("ix_feature_top_tokens", text(TOP_TOKENS), postgresql_using="gin"),
        {"postgresql_partition_by": "LIST (index_id)"},
    )

    index_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    count: Mapped[int] = mapped_column(BigInteger)
    density: Mapped[float] = mapped_column(Double)
    max: Mapped[float] = mapped_column(REAL)
    mean: Mapped[float] = mapped_column(REAL)
    histogram: Mapped[list[int]] = mapped_column(ARRAY(Integer))
    band_edges: Mapped[list[float]] = mapped_column(_reals)
    top_token_ids: Mapped[list[int]] = mapped_column(_ints)
    top_token_counts: Mapped[list[int]] = mapped_column(_ints)
    top_token_shares: Mapped[list[float]] = mapped_column(_reals)
    top_token_means: Mapped[list[float]] = mapped_column(_reals)
    promoted_ids: Mapped[list[int]] = mapped_column(_ints)
    promoted_logits: Mapped[list[float]] = mapped_column(_reals)
    suppressed_ids: Mapped[list[int]] = mapped_column(_ints)
    suppressed_logits: Mapped[list[float]] = mapped_column(_reals)
    coactive: Mapped[list[int]] = mapped_column(_ints)
    coactive_pmi: Mapped[list[float]] = mapped_column(_reals)
    coactive_joint: Mapped[list[int]] = mapped_column(_ints)
    coactive_given_this: Mapped[list[float]] = mapped_column(_reals)
    coactive_given_other: Mapped[list[float]] = mapped_column(_reals)
    near: Mapped[list[int]] = mapped_column(_ints)
    near_cosine: Mapped[list[float]] = mapped_column(_reals)
    topics: Mapped[list[int]] = mapped_column(ARRAY(SmallInteger))
    topic_counts: Mapped[list[int]] = mapped_column(_ints)
    topic_shares: Mapped[list[float]] = mapped_column(_reals)
    topic_lifts: Mapped[list[float]] = mapped_column(_reals)
    health: Mapped[list[str]] = mapped_column(ARRAY(Text))
    top_tokens_text: Mapped[str]


class ExampleBand(Base):
    """The examples of one feature in one band, best first: band 0 holds the top examples, 1..5 the quantile bands.

    One row a band, not one an example: a row's header and each array's cost Postgres more than a short example
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
