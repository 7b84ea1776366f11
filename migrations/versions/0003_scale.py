"""What a page asks of all features of an index is counted when it is published, and every search goes by an index."""

import math

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

revision = "0003"
down_revision = "0002"

BINS = 40


def upgrade() -> None:
    overview()
    fill_overview()
    label_changes()
    searches()


def overview() -> None:
    def empty(name: str, kind: sa.types.TypeEngine, default: str, comment: str) -> None:  # type: ignore[type-arg]
        column = sa.Column(name, kind, server_default=sa.text(default), nullable=False, comment=comment)
        op.add_column("feature_index", column)

    empty(
        "density_counts",
        pg.ARRAY(sa.Integer),
        "'{}'",
        "features by log10 of density, in equal bins from -log10(tokens) to 0; without the dead",
    )
    empty("dead", sa.Integer, "0", "features that are never active")
    empty("health", pg.JSONB, "'{}'", "how many features carry each health flag")


def label_changes() -> None:
    """What a page with labels is known by: it changes with each of them."""
    comment = "labels written: one more with every change"
    op.add_column("sae", sa.Column("label_changes", sa.Integer, server_default="0", nullable=False, comment=comment))


def fill_overview() -> None:
    """Count what the published indices hold; the features of retired ones are gone."""
    connection = op.get_bind()
    published = connection.execute(sa.text("SELECT id, tokens FROM feature_index WHERE state = 'published'"))
    for index_id, tokens in published.all():
        connection.execute(
            sa.text("""
                UPDATE feature_index SET
                    density_counts = ARRAY(
                        SELECT count(number) FROM generate_series(1, :bins) bin LEFT JOIN feature
                        ON index_id = :index AND density > 0
                        AND bin = greatest(1, least(:bins, width_bucket(log(density), :lowest, 0.0, :bins)))
                        GROUP BY bin ORDER BY bin
                    ),
                    dead = (SELECT count(*) FROM feature WHERE index_id = :index AND density = 0),
                    health = (
                        SELECT coalesce(jsonb_object_agg(flag, features), '{}') FROM (
                            SELECT flag, count(*) AS features FROM feature, unnest(feature.health) flag
                            WHERE index_id = :index GROUP BY flag
                        ) counted
                    )
                WHERE id = :index
            """),
            {"index": index_id, "bins": BINS, "lowest": -math.log10(max(tokens, 10))},
        )


def searches() -> None:
    """An index that has `index_id` too can answer by itself; the partition knows it, but the planner asks."""
    for name, column in (("ix_feature_density", "density"), ("ix_feature_max", "max")):
        op.drop_index(name, "feature")
        op.create_index(name, "feature", ["index_id", column, "number"])
    op.drop_index("ix_feature_top_tokens", "feature")
    op.create_index(
        "ix_feature_top_tokens",
        "feature",
        [sa.text("array_to_tsvector(array_remove(string_to_array(lower(top_tokens_text), ' '), ''))")],
        postgresql_using="gin",
    )
    op.create_index(
        "ix_label_submitted", "label", ["sae_id", "feature"], postgresql_where=sa.text("status = 'submitted'")
    )
    op.create_index(
        "ix_label_categorised", "label", ["sae_id"], postgresql_where=sa.text("cardinality(categories) > 0")
    )
