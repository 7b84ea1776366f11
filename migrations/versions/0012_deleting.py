"""What a run uses, which is not deleted meanwhile; and the folders that a deletion has left to be removed."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.create_table(
        "run_use",
        sa.Column("run_id", sa.Integer, nullable=False),
        sa.Column("subject", sa.String, nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name="fk_run_use_run_id_run", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run_id", "subject", name="pk_run_use"),
    )
    op.create_table(
        "deleted_folder",
        sa.Column("folder", sa.String, nullable=False),
        sa.Column("deleted_at", sa.TIMESTAMP(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("folder", name="pk_deleted_folder"),
    )
