"""A run says which process does it, and its place in the queue is counted from an index."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.add_column("run", sa.Column("worker", sa.String))
    op.create_index("ix_run_queue", "run", ["job_id"], postgresql_where=sa.text("state = 'queued'"))
