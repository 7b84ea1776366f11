"""People, and how they prove who they are."""

from datetime import datetime

from sqlalchemy import (
    TIMESTAMP,
    CheckConstraint,
    Double,
    ForeignKey,
    Identity,
    Index,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from app.tables.base import Base


class Person(Base):
    """Someone who makes things: a person with an account, or a name that nobody proved to be theirs.

    While a site has no accounts, whoever uses it is a name. Such names stay when accounts are made, and an admin can
    give what they wrote to an account. An account has a password, or the name that a sign-in provider knows it by.
    """

    __tablename__ = "person"
    __table_args__ = (
        CheckConstraint("role IN ('viewer', 'labeller', 'reviewer', 'admin')", name="role"),
        UniqueConstraint("oidc_issuer", "oidc_subject"),
        Index("ix_person_account", text("lower(name)"), unique=True, postgresql_where=text("is_account")),
        Index("ix_person_name", "name", unique=True, postgresql_where=text("NOT is_account")),
    )

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    name: Mapped[str]
    is_account: Mapped[bool]
    role: Mapped[str] = mapped_column(server_default="viewer")
    password_hash: Mapped[str | None]
    oidc_issuer: Mapped[str | None]
    oidc_subject: Mapped[str | None]
    disabled_at: Mapped[datetime | None] = mapped_column(TIMESTAMP(timezone=True))
    created_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())


class SignInSession(Base):
    """One browser in which a person is signed in. The cookie's value is kept as its hash alone."""

    __tablename__ = "sign_in_session"

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    token_hash: Mapped[bytes] = mapped_column(unique=True)
    person_id: Mapped[int] = mapped_column(ForeignKey("person.id", ondelete="CASCADE"), index=True)
    browser: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())
    last_seen_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())
    expires_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True))


class ApiToken(Base):
    """A token with which a program acts for a person; `scope` is `read` or `write`. It is kept as its hash alone."""

    __tablename__ = "api_token"
    __table_args__ = (CheckConstraint("scope IN ('read', 'write')", name="scope"),)

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    token_hash: Mapped[bytes] = mapped_column(unique=True)
    person_id: Mapped[int] = mapped_column(ForeignKey("person.id", ondelete="CASCADE"), index=True)
    name: Mapped[str]
    scope: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())
    last_used_at: Mapped[datetime | None] = mapped_column(TIMESTAMP(timezone=True))
    expires_at: Mapped[datetime | None] = mapped_column(TIMESTAMP(timezone=True))


class Invitation(Base):
    """A link that can be used once: with it a person makes an account of this role, or sets `person_id`'s password.

    The command line makes links that nobody's account made.
    """

    __tablename__ = "invitation"
    __table_args__ = (CheckConstraint("role IN ('viewer', 'labeller', 'reviewer', 'admin')", name="role"),)

    id: Mapped[int] = mapped_column(Identity(), primary_key=True)
    token_hash: Mapped[bytes] = mapped_column(unique=True)
    role: Mapped[str]
    person_id: Mapped[int | None] = mapped_column(ForeignKey("person.id", ondelete="CASCADE"), index=True)
    created_by: Mapped[int | None] = mapped_column(ForeignKey("person.id", ondelete="CASCADE"), index=True)
    created_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True), server_default=func.now())
    expires_at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True))
    used_by: Mapped[int | None] = mapped_column(ForeignKey("person.id", ondelete="CASCADE"), index=True)


class RateLimit(Base):
    """How much of what is limited `key` has used: `spent` at the time `at`, and less with every second since."""

    __tablename__ = "rate_limit"
    __table_args__ = ({"prefixes": ["UNLOGGED"]},)

    key: Mapped[str] = mapped_column(primary_key=True)
    spent: Mapped[float] = mapped_column(Double)
    at: Mapped[datetime] = mapped_column(TIMESTAMP(timezone=True))
