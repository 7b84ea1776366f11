"""Features are found by health, topic, token and mean, each by an index."""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_index("ix_feature_mean", "feature", ["index_id", "mean", "number"])
    for column in ("health", "topics", "top_token_ids", "promoted_ids"):
        op.create_index(f"ix_feature_{column}", "feature", [column], postgresql_using="gin")
    op.create_index("ix_token_bytes", "token", ["bytes"], postgresql_using="hash")
