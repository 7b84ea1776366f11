"""Models are known by their hashes and corpora have versions; rows of one model, or of one text, become one row.

`sae_claim` keeps the names of SAEs that runs under way make.
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    merge_models()
    op.create_index(
        "ux_language_model_hashes",
        "language_model",
        ["weights_sha256", "tokenizer_sha256"],
        unique=True,
        postgresql_where=sa.text("weights_sha256 <> 'none'"),
    )
    merge_corpora()
    op.add_column("corpus", sa.Column("version", sa.Integer, nullable=False, server_default="1"))
    op.drop_constraint("uq_corpus_slug", "corpus")
    op.create_unique_constraint("uq_corpus_slug_version", "corpus", ["slug", "version"])
    op.create_unique_constraint("uq_corpus_sha256", "corpus", ["sha256"])
    op.create_table(
        "sae_claim",
        sa.Column("slug", sa.String, nullable=False),
        sa.Column("key", sa.String, nullable=False, comment="hash of everything that the SAE depends on"),
        sa.Column("run_id", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("slug", name="pk_sae_claim"),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name="fk_sae_claim_run_id_run", ondelete="CASCADE"),
    )
    op.create_index("ix_sae_claim_run_id", "sae_claim", ["run_id"])


def merge_models() -> None:
    """Keep the oldest row of each model: its SAEs and sequences keep their URLs and ids."""
    op.execute(
        """
        CREATE TEMPORARY TABLE same_model ON COMMIT DROP AS
        SELECT id, kept FROM (
            SELECT id, min(id) OVER (PARTITION BY weights_sha256, tokenizer_sha256) AS kept
            FROM language_model WHERE weights_sha256 <> 'none'
        ) AS model
        WHERE id <> kept
        """
    )
    op.execute("UPDATE sae SET model_id = kept FROM same_model WHERE model_id = same_model.id")
    op.execute("UPDATE sequence_set SET model_id = kept FROM same_model WHERE model_id = same_model.id")
    op.execute("DELETE FROM language_model USING same_model WHERE language_model.id = same_model.id")


def merge_corpora() -> None:
    """Keep the oldest row of each text."""
    op.execute(
        """
        CREATE TEMPORARY TABLE same_corpus ON COMMIT DROP AS
        SELECT id, kept FROM (SELECT id, min(id) OVER (PARTITION BY sha256) AS kept FROM corpus) AS text
        WHERE id <> kept
        """
    )
    op.execute("UPDATE sequence_set SET corpus_id = kept FROM same_corpus WHERE corpus_id = same_corpus.id")
    op.execute("DELETE FROM corpus USING same_corpus WHERE corpus.id = same_corpus.id")
