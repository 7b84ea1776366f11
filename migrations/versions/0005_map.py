"""A map of an index's features, and how redundant their decoder directions are."""

import json

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

revision = "0005"
down_revision = "0004"

BINS = 40
STAGE = {
    "name": "map",
    "title": "Draw the map of the features",
    "state": "waiting",
    "done": 0,
    "total": 0,
    "unit": "",
    "seconds": 0.0,
    "started_at": None,
}
"""What runs that index draw from now on."""


def upgrade() -> None:
    add_stage()
    feature_map()
    redundancy()


def add_stage() -> None:
    """Runs that are to go on find the stage."""
    unfinished = """
        UPDATE run SET stages = stages || CAST(:stages AS jsonb)
        WHERE kind IN ('index', 'demo') AND state IN ('queued', 'running', 'failed')
    """
    op.execute(sa.text(unfinished).bindparams(stages=json.dumps([STAGE])))


def feature_map() -> None:
    op.create_table(
        "feature_map",
        sa.Column("index_id", sa.Integer, nullable=False),
        sa.Column("x", pg.ARRAY(sa.REAL), nullable=False, comment="by feature number"),
        sa.Column("y", pg.ARRAY(sa.REAL), nullable=False),
        sa.Column("settings", pg.JSONB, nullable=False, comment="how it was made, seed included"),
        sa.PrimaryKeyConstraint("index_id", name="pk_feature_map"),
        sa.ForeignKeyConstraint(
            ["index_id"], ["feature_index.id"], ondelete="CASCADE", name="fk_feature_map_index_id_feature_index"
        ),
    )


def redundancy() -> None:
    comment = "features by the cosine of their nearest decoder direction, in equal bins from 0 to 1"
    column = sa.Column("redundancy_counts", pg.ARRAY(sa.Integer), server_default="{}", nullable=False, comment=comment)
    op.add_column("feature_index", column)
    op.execute(
        sa.text("""
            UPDATE feature_index SET redundancy_counts = ARRAY(
                SELECT count(number) FROM generate_series(1, :bins) bin LEFT JOIN feature
                ON index_id = feature_index.id AND near_cosine[1] IS NOT NULL
                AND bin = greatest(1, least(:bins, width_bucket(near_cosine[1]::float8, 0, 1, :bins)))
                GROUP BY bin ORDER BY bin
            )
            WHERE state = 'published'
        """).bindparams(bins=BINS)
    )
