"""The first schema: models, corpora, SAEs and their indices, labels, runs, and the queue.

There is no downgrade, in this revision or later ones: going back means restoring a backup.
"""

from typing import Any

import procrastinate
import sqlalchemy as sa
from alembic import op
from procrastinate.schema import SchemaManager
from sqlalchemy.dialects import postgresql as pg

revision = "0001"
down_revision = None


def upgrade() -> None:
    models()
    corpora()
    saes()
    features()
    labels()
    runs()
    queue()


def now(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.TIMESTAMP(timezone=True), server_default=sa.func.now(), nullable=False)


def required(name: str, kind: Any, comment: str | None = None, **options: Any) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=False, comment=comment, **options)


def models() -> None:
    op.create_table(
        "language_model",
        sa.Column("id", sa.Integer, sa.Identity()),
        required("name", sa.String),
        required("source", sa.String, "what load_model was given: a hub id or a file"),
        required("n_layers", sa.Integer),
        required("d_model", sa.Integer),
        required("vocab_size", sa.Integer),
        required("weights_sha256", sa.String),
        required("tokenizer_sha256", sa.String),
        sa.Column("bos_token_id", sa.Integer),
        now("created_at"),
        sa.PrimaryKeyConstraint("id", name="pk_language_model"),
        sa.UniqueConstraint("name", name="uq_language_model_name"),
    )
    op.create_table(
        "token",
        required("model_id", sa.Integer),
        required("id", sa.Integer),
        required("bytes", sa.LargeBinary, "raw bytes, which may be a part of a character"),
        required("special", sa.Boolean, server_default=sa.false()),
        sa.PrimaryKeyConstraint("model_id", "id", name="pk_token"),
        sa.ForeignKeyConstraint(
            ["model_id"], ["language_model.id"], name="fk_token_model_id_language_model", ondelete="CASCADE"
        ),
    )


def corpora() -> None:
    op.create_table(
        "corpus",
        sa.Column("id", sa.Integer, sa.Identity()),
        required("slug", sa.String),
        required("title", sa.String),
        required("source", sa.String),
        required("licence", sa.String),
        required("attribution", sa.String, "shown wherever the corpus' text is"),
        required("sha256", sa.String),
        required("documents", sa.Integer),
        now("created_at"),
        sa.PrimaryKeyConstraint("id", name="pk_corpus"),
        sa.UniqueConstraint("slug", name="uq_corpus_slug"),
    )
    op.create_table(
        "sequence_set",
        sa.Column("id", sa.Integer, sa.Identity()),
        required("corpus_id", sa.Integer),
        required("model_id", sa.Integer),
        required("length", sa.Integer, "tokens of a full sequence"),
        required("sequences", sa.Integer),
        required("tokens", sa.BigInteger, "counted tokens: without padding, BOS and special tokens"),
        required("sha256", sa.String),
        now("created_at"),
        sa.PrimaryKeyConstraint("id", name="pk_sequence_set"),
        sa.ForeignKeyConstraint(["corpus_id"], ["corpus.id"], name="fk_sequence_set_corpus_id_corpus"),
        sa.ForeignKeyConstraint(["model_id"], ["language_model.id"], name="fk_sequence_set_model_id_language_model"),
        sa.UniqueConstraint("sha256", name="uq_sequence_set_sha256"),
    )
    for table in ("document", "sequence"):
        columns = {
            "document": (
                required("title", sa.String),
                sa.Column("topic", sa.String),
                required("metadata", pg.JSONB),
            ),
            "sequence": (
                required("token_ids", pg.ARRAY(sa.Integer), "without padding"),
                required("document_starts", pg.ARRAY(sa.SmallInteger), "positions at which another document begins"),
                required("document_numbers", pg.ARRAY(sa.Integer), "the document from there on; -1 for none"),
            ),
        }[table]
        op.create_table(
            table,
            required("set_id", sa.Integer),
            required("number", sa.Integer),
            *columns,
            sa.PrimaryKeyConstraint("set_id", "number", name=f"pk_{table}"),
            sa.ForeignKeyConstraint(
                ["set_id"], ["sequence_set.id"], name=f"fk_{table}_set_id_sequence_set", ondelete="CASCADE"
            ),
        )


def saes() -> None:
    op.create_table(
        "sae",
        sa.Column("id", sa.Integer, sa.Identity()),
        required("slug", sa.String),
        required("model_id", sa.Integer),
        required("hook", sa.String, 'as interp-engine names it, "resid_post.9"'),
        required("architecture", sa.String),
        required("d_in", sa.Integer),
        required("d_sae", sa.Integer),
        sa.Column("k", sa.REAL, comment="active features a token that training aimed at, where it did"),
        required("artifact", sa.String, "folder of its weights, under SEESAE_ARTIFACTS"),
        required("weights_sha256", sa.String),
        required("config", pg.JSONB),
        required("metrics", pg.JSONB),
        required("created_by", sa.String),
        now("created_at"),
        sa.Column("current_index_id", sa.Integer),
        sa.PrimaryKeyConstraint("id", name="pk_sae"),
        sa.UniqueConstraint("slug", name="uq_sae_slug"),
        sa.ForeignKeyConstraint(["model_id"], ["language_model.id"], name="fk_sae_model_id_language_model"),
    )
    op.create_index("ix_sae_model_id", "sae", ["model_id"])
    op.create_table(
        "feature_index",
        sa.Column("id", sa.Integer, sa.Identity()),
        required("sae_id", sa.Integer),
        required("sequence_set_id", sa.Integer),
        required("state", sa.String),
        required("tokens", sa.BigInteger, "tokens counted; densities are shares of them"),
        required("topics", pg.ARRAY(sa.Text), "names of the topics that features refer to by place"),
        required("provenance", pg.JSONB, "hashes, seeds and thresholds: equal provenance, equal index"),
        now("published_at"),
        sa.Column("retired_at", sa.TIMESTAMP(timezone=True)),
        sa.PrimaryKeyConstraint("id", name="pk_feature_index"),
        sa.ForeignKeyConstraint(["sae_id"], ["sae.id"], name="fk_feature_index_sae_id_sae", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["sequence_set_id"], ["sequence_set.id"], name="fk_feature_index_sequence_set_id_sequence_set"
        ),
        sa.CheckConstraint("state IN ('published', 'retired')", name="ck_feature_index_state"),
    )
    op.create_index("ix_feature_index_sae_id", "feature_index", ["sae_id"])
    op.create_foreign_key(
        "fk_sae_current_index_id_feature_index",
        "sae",
        "feature_index",
        ["current_index_id"],
        ["id"],
        ondelete="SET NULL",
    )


def features() -> None:
    def ints(name: str, comment: str | None = None) -> sa.Column[Any]:
        return required(name, pg.ARRAY(sa.Integer), comment)

    def small_ints(name: str, comment: str | None = None) -> sa.Column[Any]:
        return required(name, pg.ARRAY(sa.SmallInteger), comment)

    def reals(name: str, comment: str | None = None) -> sa.Column[Any]:
        return required(name, pg.ARRAY(sa.REAL), comment)

    op.create_table(
        "feature",
        required("index_id", sa.Integer),
        required("number", sa.Integer, "the feature's index in the dictionary"),
        required("count", sa.BigInteger, "counted tokens on which it is active"),
        required("density", sa.Double, "count over the index' tokens"),
        required("max", sa.REAL),
        required("mean", sa.REAL, "of the non-zero activations"),
        ints("histogram", "non-zero activations in equal bins over (0, max]"),
        reals("band_edges", "quantiles 0, 1/5, ... 1 of the non-zero activations"),
        ints("top_token_ids", "by share of the activation mass"),
        ints("top_token_counts"),
        reals("top_token_shares"),
        reals("top_token_means"),
        ints("promoted_ids", "tokens whose logits the decoder direction raises most"),
        reals("promoted_logits"),
        ints("suppressed_ids"),
        reals("suppressed_logits"),
        ints("coactive", "features active on the same tokens, by pointwise mutual information"),
        reals("coactive_pmi", "natural logarithm"),
        ints("coactive_joint", "tokens on which both are active"),
        reals("coactive_given_this", "P(other active | this active)"),
        reals("coactive_given_other", "P(this active | other active)"),
        ints("near", "features with near decoder directions"),
        reals("near_cosine"),
        small_ints("topics", "places in feature_index.topics"),
        ints("topic_counts", "active tokens in documents of the topic"),
        reals("topic_shares", "of the feature's active tokens"),
        reals("topic_lifts", "share over the topic's share of all counted tokens"),
        required("health", pg.ARRAY(sa.Text), "flags that hold: dead, dense, duplicate, ..."),
        required("top_tokens_text", sa.String, "words of the top tokens, to be searched"),
        sa.PrimaryKeyConstraint("index_id", "number", name="pk_feature"),
        postgresql_partition_by="LIST (index_id)",
    )
    op.create_index("ix_feature_density", "feature", ["density", "number"])
    op.create_index("ix_feature_max", "feature", ["max", "number"])
    op.create_index(
        "ix_feature_top_tokens",
        "feature",
        [sa.text("to_tsvector('simple', top_tokens_text)")],
        postgresql_using="gin",
    )
    op.create_table(
        "example_band",
        required("index_id", sa.Integer),
        required("feature", sa.Integer),
        required("band", sa.SmallInteger, "0: top examples; 1..5: quantile bands, weakest first"),
        ints("sequences", "one entry an example, best first"),
        small_ints("positions", "of the example's token in its sequence"),
        reals("activations", "at that position"),
        small_ints("lengths", "non-zero activations in the sequence"),
        small_ints("active_positions", "all examples' non-zero activations, one example after the other"),
        reals("active_values"),
        sa.PrimaryKeyConstraint("index_id", "feature", "band", name="pk_example_band"),
        postgresql_partition_by="LIST (index_id)",
    )


def labels() -> None:
    def content() -> tuple[sa.Column[Any], ...]:
        return (
            required("status", sa.String),
            required("explanation", sa.String),
            required("categories", pg.ARRAY(sa.Text)),
            sa.Column("interpretability", sa.SmallInteger, comment="1 (none) to 5"),
            sa.Column("confidence", sa.SmallInteger, comment="1 (none) to 5"),
        )

    op.create_table(
        "label",
        sa.Column("id", sa.Integer, sa.Identity()),
        required("sae_id", sa.Integer, "labels belong to the SAE, not to an index, and survive re-indexing"),
        required("feature", sa.Integer),
        required("author", sa.String),
        required("label_set", sa.String, server_default="default"),
        *content(),
        required("version", sa.Integer, "1 at first; one more with every change"),
        now("created_at"),
        now("updated_at"),
        required(
            "search",
            pg.TSVECTOR,
            None,
            server_default=sa.Computed(
                "to_tsvector('simple', explanation) || to_tsvector('english', explanation)", persisted=True
            ),
        ),
        sa.PrimaryKeyConstraint("id", name="pk_label"),
        sa.ForeignKeyConstraint(["sae_id"], ["sae.id"], name="fk_label_sae_id_sae", ondelete="CASCADE"),
        sa.UniqueConstraint(
            "sae_id", "feature", "author", "label_set", name="uq_label_sae_id_feature_author_label_set"
        ),
        sa.CheckConstraint("status IN ('draft', 'submitted')", name="ck_label_status"),
    )
    op.create_index("ix_label_search", "label", ["search"], postgresql_using="gin")
    op.create_table(
        "label_revision",
        required("label_id", sa.Integer),
        required("version", sa.Integer),
        *content(),
        now("changed_at"),
        sa.PrimaryKeyConstraint("label_id", "version", name="pk_label_revision"),
        sa.ForeignKeyConstraint(
            ["label_id"], ["label.id"], name="fk_label_revision_label_id_label", ondelete="CASCADE"
        ),
    )


def runs() -> None:
    op.create_table(
        "run",
        sa.Column("id", sa.Integer, sa.Identity()),
        required("kind", sa.String),
        required("title", sa.String),
        required("state", sa.String, server_default="queued"),
        required("params", pg.JSONB),
        required("stages", pg.JSONB),
        sa.Column("result", pg.JSONB),
        sa.Column("error", sa.String, comment="one line, for people"),
        sa.Column("sae_id", sa.Integer),
        sa.Column("job_id", sa.BigInteger, comment="the queue's job; no foreign key, for finished jobs are deleted"),
        required("created_by", sa.String),
        now("created_at"),
        sa.Column("started_at", sa.TIMESTAMP(timezone=True)),
        sa.Column("finished_at", sa.TIMESTAMP(timezone=True)),
        now("updated_at"),
        sa.PrimaryKeyConstraint("id", name="pk_run"),
        sa.ForeignKeyConstraint(["sae_id"], ["sae.id"], name="fk_run_sae_id_sae", ondelete="SET NULL"),
        sa.CheckConstraint("kind IN ('train', 'index', 'evaluate', 'demo', 'import', 'export')", name="ck_run_kind"),
        sa.CheckConstraint("state IN ('queued', 'running', 'done', 'failed', 'cancelled')", name="ck_run_state"),
    )
    op.create_index("ix_run_sae_id", "run", ["sae_id"])
    op.create_table(
        "run_metric",
        required("run_id", sa.Integer),
        required("step", sa.Integer),
        required("values", pg.JSONB, 'such as {"loss": 0.4, "l0": 31.9}; null where a value was not a number'),
        sa.PrimaryKeyConstraint("run_id", "step", name="pk_run_metric"),
        sa.ForeignKeyConstraint(["run_id"], ["run.id"], name="fk_run_metric_run_id_run", ondelete="CASCADE"),
    )


def queue() -> None:
    """procrastinate's tables and functions, as the installed version ships them.

    They are given to the driver itself: to SQLAlchemy, their '%' would be placeholders. A later revision that brings
    them up to date finds the version in the comment.
    """
    connection = op.get_bind().connection.driver_connection
    assert connection is not None
    connection.execute(SchemaManager.get_schema())
    op.execute(f"COMMENT ON TABLE procrastinate_jobs IS 'procrastinate {procrastinate.__version__}'")
