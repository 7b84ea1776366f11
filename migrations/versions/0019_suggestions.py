"""Suggestions of machines, and the answers that were paid for."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    op.create_table(
        "suggestion",
        sa.Column("id", sa.Integer, sa.Identity(), nullable=False),
        *(sa.Column(name, sa.Integer, nullable=False) for name in ("sae_id", "feature")),
        *(sa.Column(name, sa.String, nullable=False) for name in ("key", "source", "model", "prompt")),
        *(sa.Column(name, sa.String) for name in ("text", "error")),
        sa.Column("scores", JSONB),
        *(sa.Column(name, sa.Integer) for name in ("index_id", "run_id")),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.ForeignKeyConstraint(["sae_id"], ["sae.id"], name="fk_suggestion_sae_id_sae", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["index_id"], ["feature_index.id"], name="fk_suggestion_index_id_feature_index", ondelete="SET NULL"
        ),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name="fk_suggestion_run_id_run", ondelete="SET NULL"),
        sa.PrimaryKeyConstraint("id", name="pk_suggestion"),
    )
    op.create_index("uq_suggestion_sae_id_feature_key", "suggestion", ["sae_id", "feature", "key"], unique=True)
    op.create_index("ix_suggestion_index_id", "suggestion", ["index_id"])
    op.create_index("ix_suggestion_run_id", "suggestion", ["run_id"])
    op.create_table(
        "llm_answer",
        *(sa.Column(name, sa.String, nullable=False) for name in ("key", "model", "text")),
        sa.Column("finished", sa.Boolean, nullable=False),
        *(sa.Column(name, sa.Integer, nullable=False) for name in ("tokens_in", "tokens_out")),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_llm_answer"),
    )
    op.add_column("label_revision", sa.Column("suggestion_id", sa.Integer))
    op.create_foreign_key(
        "fk_label_revision_suggestion_id_suggestion",
        "label_revision",
        "suggestion",
        ["suggestion_id"],
        ["id"],
        ondelete="SET NULL",
    )
    op.create_index("ix_label_revision_suggestion_id", "label_revision", ["suggestion_id"])
