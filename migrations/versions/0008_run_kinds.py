"""Kinds of run are declared in code (`app.runs.spec`) alone: a new one needs no migration."""

from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.drop_constraint(op.f("ck_run_kind"), "run", type_="check")
