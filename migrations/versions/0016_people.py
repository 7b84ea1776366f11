"""People with accounts, and the names of those who wrote before there were any."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"

_ROLES = "role IN ('viewer', 'labeller', 'reviewer', 'admin')"
_NAMES = "INSERT INTO person (name, is_account) SELECT DISTINCT author, false FROM {table} ON CONFLICT DO NOTHING"
_OWNERS = "UPDATE {table} SET owner_id = person.id FROM person WHERE person.name = author"
_OWNED = ("saved_list", "saved_edit", "saved_probe")


def _id() -> sa.Column:
    return sa.Column("id", sa.Integer, sa.Identity(), nullable=False)


def _time(name: str, *, nullable: bool = False, now: bool = True) -> sa.Column:
    return sa.Column(
        name, sa.TIMESTAMP(timezone=True), nullable=nullable, server_default=sa.func.now() if now else None
    )


def _person(table: str, column: str, *, nullable: bool = False) -> tuple[sa.Column, sa.ForeignKeyConstraint]:
    key = sa.ForeignKeyConstraint([column], ["person.id"], name=f"fk_{table}_{column}_person", ondelete="CASCADE")
    return sa.Column(column, sa.Integer, nullable=nullable), key


def upgrade() -> None:
    op.create_table(
        "person",
        _id(),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("is_account", sa.Boolean, nullable=False),
        sa.Column("role", sa.String, server_default="viewer", nullable=False),
        *(sa.Column(name, sa.String) for name in ("password_hash", "oidc_issuer", "oidc_subject")),
        _time("disabled_at", nullable=True, now=False),
        _time("created_at"),
        sa.CheckConstraint(_ROLES, name=op.f("ck_person_role")),
        sa.PrimaryKeyConstraint("id", name="pk_person"),
        sa.UniqueConstraint("oidc_issuer", "oidc_subject", name="uq_person_oidc_issuer_oidc_subject"),
    )
    op.create_index(
        "ix_person_account", "person", [sa.text("lower(name)")], unique=True, postgresql_where=sa.text("is_account")
    )
    op.create_index("ix_person_name", "person", ["name"], unique=True, postgresql_where=sa.text("NOT is_account"))
    op.create_table(
        "sign_in_session",
        _id(),
        sa.Column("token_hash", sa.LargeBinary, nullable=False),
        *_person("sign_in_session", "person_id"),
        sa.Column("browser", sa.String, nullable=False),
        _time("created_at"),
        _time("last_seen_at"),
        _time("expires_at", now=False),
        sa.PrimaryKeyConstraint("id", name="pk_sign_in_session"),
        sa.UniqueConstraint("token_hash", name="uq_sign_in_session_token_hash"),
    )
    op.create_table(
        "api_token",
        _id(),
        sa.Column("token_hash", sa.LargeBinary, nullable=False),
        *_person("api_token", "person_id"),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("scope", sa.String, nullable=False),
        _time("created_at"),
        _time("last_used_at", nullable=True, now=False),
        _time("expires_at", nullable=True, now=False),
        sa.CheckConstraint("scope IN ('read', 'write')", name=op.f("ck_api_token_scope")),
        sa.PrimaryKeyConstraint("id", name="pk_api_token"),
        sa.UniqueConstraint("token_hash", name="uq_api_token_token_hash"),
    )
    op.create_table(
        "invitation",
        _id(),
        sa.Column("token_hash", sa.LargeBinary, nullable=False),
        sa.Column("role", sa.String, nullable=False),
        *_person("invitation", "created_by"),
        _time("created_at"),
        _time("expires_at", now=False),
        *_person("invitation", "used_by", nullable=True),
        sa.CheckConstraint(_ROLES, name=op.f("ck_invitation_role")),
        sa.PrimaryKeyConstraint("id", name="pk_invitation"),
        sa.UniqueConstraint("token_hash", name="uq_invitation_token_hash"),
    )
    for table, column in (
        ("sign_in_session", "person_id"),
        ("api_token", "person_id"),
        ("invitation", "created_by"),
        ("invitation", "used_by"),
    ):
        op.create_index(f"ix_{table}_{column}", table, [column])

    for table in ("label", *_OWNED):
        op.execute(_NAMES.format(table=table))
    for table in _OWNED:
        column, _ = _person(table, "owner_id", nullable=True)
        op.add_column(table, column)
        op.execute(_OWNERS.format(table=table))
        op.alter_column(table, "owner_id", nullable=False)
        op.create_foreign_key(f"fk_{table}_owner_id_person", table, "person", ["owner_id"], ["id"])
        op.create_index(f"ix_{table}_owner_id", table, ["owner_id"])
