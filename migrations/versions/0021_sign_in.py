"""Links with which a person sets the password of an account, and limits of how often somebody may try."""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"


def upgrade() -> None:
    op.alter_column("invitation", "created_by", nullable=True)  # by the command line
    op.add_column("invitation", sa.Column("person_id", sa.Integer))
    op.create_foreign_key(
        "fk_invitation_person_id_person", "invitation", "person", ["person_id"], ["id"], ondelete="CASCADE"
    )
    op.create_index("ix_invitation_person_id", "invitation", ["person_id"])
    op.create_table(
        "rate_limit",
        sa.Column("key", sa.String, nullable=False),
        sa.Column("spent", sa.Double, nullable=False),
        sa.Column("at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_rate_limit"),
        prefixes=["UNLOGGED"],
    )
