"""Saved edits."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    op.create_table(
        "saved_edit",
        sa.Column("id", sa.Integer, sa.Identity(), nullable=False),
        *(sa.Column(name, sa.String, nullable=False) for name in ("name", "title", "author", "notes")),
        sa.Column("model_id", sa.Integer, nullable=False),
        *(sa.Column(name, JSONB, nullable=False) for name in ("interventions", "prompts", "checks")),
        sa.Column("file", sa.String, nullable=False),
        sa.Column("measured", JSONB),
        sa.Column("measured_at", sa.TIMESTAMP(timezone=True)),
        sa.Column("run_id", sa.Integer),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.ForeignKeyConstraint(
            ["model_id"], ["language_model.id"], name="fk_saved_edit_model_id_language_model", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name="fk_saved_edit_run_id_run", ondelete="SET NULL"),
        sa.PrimaryKeyConstraint("id", name="pk_saved_edit"),
        sa.UniqueConstraint("name", name="uq_saved_edit_name"),
    )
    op.create_index("ix_saved_edit_model_id", "saved_edit", ["model_id"])
    op.create_index("ix_saved_edit_run_id", "saved_edit", ["run_id"])
    op.create_table(
        "saved_edit_sae",
        sa.Column("edit_id", sa.Integer, nullable=False),
        sa.Column("place", sa.Integer, nullable=False),
        sa.Column("slug", sa.String, nullable=False),
        sa.Column("sae_id", sa.Integer),
        sa.ForeignKeyConstraint(
            ["edit_id"], ["saved_edit.id"], name="fk_saved_edit_sae_edit_id_saved_edit", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["sae_id"], ["sae.id"], name="fk_saved_edit_sae_sae_id_sae", ondelete="SET NULL"),
        sa.PrimaryKeyConstraint("edit_id", "place", name="pk_saved_edit_sae"),
    )
    op.create_index("ix_saved_edit_sae_sae_id", "saved_edit_sae", ["sae_id"])
