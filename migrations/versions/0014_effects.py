"""Measured effects of features."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    op.create_table(
        "feature_effect",
        sa.Column("sae_id", sa.Integer, nullable=False),
        sa.Column("feature", sa.Integer, nullable=False),
        sa.Column("run_id", sa.Integer),
        sa.Column("tokens", sa.Integer, nullable=False),
        *(sa.Column(name, sa.REAL) for name in ("kl", "delta_loss", "ratio", "low", "high")),
        sa.Column("detail", pg.JSONB, nullable=False),
        sa.Column("measured_at", sa.TIMESTAMP(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("sae_id", "feature", name="pk_feature_effect"),
        sa.ForeignKeyConstraint(["sae_id"], ["sae.id"], name="fk_feature_effect_sae_id_sae", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name="fk_feature_effect_run_id_run", ondelete="SET NULL"),
    )
    op.create_index("ix_feature_effect_ratio", "feature_effect", ["sae_id", "ratio", "feature"])
    op.create_index("ix_feature_effect_run_id", "feature_effect", ["run_id"])
