"""Runs under way are found by an index, however many have ended."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.create_index("ix_run_active", "run", ["id"], postgresql_where=sa.text("state IN ('queued', 'running')"))
