"""Transcoders: SAEs that read one hook point and reconstruct another."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column(
        "sae", sa.Column("hook_out", sa.String, comment="what a transcoder reconstructs; null for an autoencoder")
    )
