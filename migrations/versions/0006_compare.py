"""SAEs of one model are compared feature by feature."""

import json

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

revision = "0006"
down_revision = "0005"

KINDS = "kind IN ('train', 'index', 'evaluate', 'compare', 'demo', 'import', 'export')"
STAGE = {
    "name": "compare",
    "title": "Compare with other SAEs",
    "state": "waiting",
    "done": 0,
    "total": 0,
    "unit": "features",
    "seconds": 0.0,
    "started_at": None,
}
"""What runs that index end with from now on."""


def upgrade() -> None:
    op.drop_constraint(op.f("ck_run_ck_run_kind"), "run")  # 0001 named it so, without knowing
    op.create_check_constraint("kind", "run", KINDS)
    add_stage()
    comparison()
    feature_match()


def add_stage() -> None:
    """Runs that are to go on find the stage that they end with."""
    unfinished = """
        UPDATE run SET stages = stages || CAST(:stages AS jsonb)
        WHERE kind IN ('index', 'demo') AND state IN ('queued', 'running', 'failed')
    """
    op.execute(sa.text(unfinished).bindparams(stages=json.dumps([STAGE])))


def comparison() -> None:
    op.create_table(
        "comparison",
        sa.Column("id", sa.Integer, sa.Identity(), nullable=False),
        sa.Column("a_id", sa.Integer, nullable=False, comment="the lower of both ids"),
        sa.Column("b_id", sa.Integer, nullable=False),
        sa.Column("sequence_set_id", sa.Integer, comment="null: directions alone were compared"),
        sa.Column("tokens", sa.BigInteger, nullable=False, comment="counted for activity"),
        sa.Column("provenance", pg.JSONB, nullable=False, comment="hashes and thresholds: equal, equal comparison"),
        sa.Column("summary", pg.JSONB, nullable=False, comment="counts and histograms of both sides"),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.func.now(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_comparison"),
        sa.UniqueConstraint("a_id", "b_id", name="uq_comparison_a_id_b_id"),
        sa.CheckConstraint("a_id < b_id", name="order"),
        sa.ForeignKeyConstraint(["a_id"], ["sae.id"], name="fk_comparison_a_id_sae", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["b_id"], ["sae.id"], name="fk_comparison_b_id_sae", ondelete="CASCADE"),
        sa.ForeignKeyConstraint(
            ["sequence_set_id"],
            ["sequence_set.id"],
            name="fk_comparison_sequence_set_id_sequence_set",
            ondelete="CASCADE",
        ),
    )
    op.create_index("ix_comparison_b_id", "comparison", ["b_id"])


def feature_match() -> None:
    def column(name: str, kind: type, comment: str | None = None) -> sa.Column:  # type: ignore[type-arg]
        return sa.Column(name, kind, nullable=False, comment=comment)

    def partner(name: str, comment: str, *, matched: bool) -> list[sa.Column]:  # type: ignore[type-arg]
        columns = [
            sa.Column(name, sa.Integer, comment=f"feature of the other SAE: {comment}"),
            column(f"{name}_cosine", sa.REAL),
            column(f"{name}_correlation", sa.REAL),
            column(f"{name}_joint", sa.Integer, "tokens on which both are active"),
        ]
        return [*columns, column(f"{name}_matched", sa.Boolean, "each is the other's, above the floor")][: 4 + matched]

    op.create_table(
        "feature_match",
        column("comparison_id", sa.Integer),
        column("side", sa.SmallInteger, "0: feature of a, 1: of b"),
        column("feature", sa.Integer),
        column("count", sa.BigInteger, "tokens on which it is active"),
        *partner("near", "nearest in direction", matched=True),
        *partner("coactive", "of the highest correlation", matched=True),
        *partner("parent", "that this one is a part of", matched=False),
        column("parts", sa.Integer, "features of the other SAE whose parent this one is"),
        column("covered", sa.Integer, "its tokens on which a part is active"),
        sa.PrimaryKeyConstraint("comparison_id", "side", "feature", name="pk_feature_match"),
        sa.ForeignKeyConstraint(
            ["comparison_id"], ["comparison.id"], name="fk_feature_match_comparison_id_comparison", ondelete="CASCADE"
        ),
    )
    for name, columns, where in (
        ("near", ["near_cosine", "feature"], "near_matched"),
        ("coactive", ["coactive_correlation", "feature"], "coactive_matched"),
        ("unmatched", ["count", "feature"], "NOT near_matched AND NOT coactive_matched"),
        ("parts", ["parts", "feature"], "parts > 1"),
        ("parent", ["parent"], "parent IS NOT NULL"),
    ):
        op.create_index(
            f"ix_feature_match_{name}",
            "feature_match",
            ["comparison_id", "side", *columns],
            postgresql_where=sa.text(where),
        )
