"""Lists of features that people keep."""

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.create_table(
        "saved_list",
        sa.Column("id", sa.Integer, sa.Identity()),
        required("public_id", sa.String, "random text for its address"),
        required("name", sa.String),
        required("description", sa.String),
        required("author", sa.String),
        required("version", sa.Integer, "1 at first; one more with every change", server_default="1"),
        required("text_version", sa.Integer, "of the last change of name or description", server_default="1"),
        required("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.func.now()),
        required("updated_at", sa.TIMESTAMP(timezone=True), server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("id", name="pk_saved_list"),
        sa.UniqueConstraint("public_id", name="uq_saved_list_public_id"),
    )
    op.create_index("ix_saved_list_updated_at", "saved_list", ["updated_at"])
    op.create_table(
        "saved_list_item",
        required("list_id", sa.Integer),
        required("sae_id", sa.Integer),
        required("feature", sa.Integer),
        required("position", sa.Integer, "the order; gaps mean nothing"),
        required("note", sa.String),
        required("note_version", sa.Integer, "the list's version at which the note was last written"),
        sa.PrimaryKeyConstraint("list_id", "sae_id", "feature", name="pk_saved_list_item"),
        sa.UniqueConstraint(
            "list_id",
            "position",
            name="uq_saved_list_item_list_id_position",
            deferrable=True,
            initially="IMMEDIATE",
        ),
        sa.ForeignKeyConstraint(
            ["list_id"], ["saved_list.id"], name="fk_saved_list_item_list_id_saved_list", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(["sae_id"], ["sae.id"], name="fk_saved_list_item_sae_id_sae", ondelete="CASCADE"),
    )
    op.create_index("ix_saved_list_item_feature", "saved_list_item", ["sae_id", "feature"])


def required(name: str, kind: Any, comment: str | None = None, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=False, comment=comment, **options)
