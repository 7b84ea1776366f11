"""Probes that their authors save."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    op.create_table(
        "saved_probe",
        sa.Column("id", sa.Integer, sa.Identity(), nullable=False),
        sa.Column("public_id", sa.String, nullable=False),
        sa.Column("sae_id", sa.Integer, nullable=False),
        sa.Column("title", sa.String, nullable=False),
        sa.Column("author", sa.String, nullable=False),
        sa.Column("fields", JSONB, nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.ForeignKeyConstraint(["sae_id"], ["sae.id"], name="fk_saved_probe_sae_id_sae", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_saved_probe"),
        sa.UniqueConstraint("public_id", name="uq_saved_probe_public_id"),
    )
    op.create_index("ix_saved_probe_sae_id", "saved_probe", ["sae_id"])
