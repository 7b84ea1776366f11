"""How alike the tokens of a feature's examples are, and in how many features of an index it is known."""

from alembic import op

revision = "0027"
down_revision = "0026"


def upgrade() -> None:
    op.execute("ALTER TABLE feature ADD COLUMN coherence REAL")
    op.execute("ALTER TABLE feature_index ADD COLUMN coherent INTEGER DEFAULT 0 NOT NULL")
    op.execute("""
        CREATE INDEX ix_feature_coherence ON feature (index_id, coalesce(coherence, '-1000'::real), number)
        INCLUDE (coherence)
    """)
