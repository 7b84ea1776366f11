"""Accounts, and the secrets that prove who somebody is: sessions of browsers and tokens of programs.

The database keeps a secret's hash alone. SHA-256 does, because the secrets are random and long; passwords are not.
"""

from dataclasses import replace
from datetime import timedelta
from hashlib import sha256
from secrets import token_urlsafe
from typing import Literal

from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import Conflict
from app.queries import people
from app.services.actors import Actor, Role
from app.services.labels import tidy_name

SESSION_LASTS = timedelta(days=30)
TOKEN_PREFIX = "seesae_"  # noqa: S105 - with it people and scanners know a token that leaked
_SECRET_BYTES = 32

Scope = Literal["read", "write"]


async def create_account(session: AsyncSession, name: str, role: Role, *, password_hash: str | None = None) -> Actor:
    """Make an account.

    Raises:
        Unprocessable: the name is empty, too long or cannot be stored.
        Conflict: there is an account of this name.
    """
    name = tidy_name("account", name)
    made = await people.insert_account(session, name, role.name, password_hash=password_hash)
    if made is None:
        raise Conflict(f"There is an account named {name} already: choose another name.")
    return Actor.of(made)


async def start_session(session: AsyncSession, person_id: int, *, browser: str = "") -> str:
    """Sign a person in; return the secret for the cookie, which is new with every sign-in."""
    secret = token_urlsafe(_SECRET_BYTES)
    await people.insert_session(session, person_id, _hash(secret), browser=browser[:200], lasts=SESSION_LASTS)
    return secret


async def create_token(
    session: AsyncSession, person_id: int, name: str, *, scope: Scope = "write", lasts: timedelta | None = None
) -> str:
    """Make an API token that acts for a person; return it, to be shown once."""
    secret = TOKEN_PREFIX + token_urlsafe(_SECRET_BYTES)
    await people.insert_token(session, person_id, _hash(secret), name=name, scope=scope, lasts=lasts)
    return secret


async def actor_of_session(session: AsyncSession, secret: str) -> Actor | None:
    """Return who is signed in with this cookie; None if nobody is any more."""
    person = await people.person_of_session(session, _hash(secret))
    return None if person is None else Actor.of(person)


async def actor_of_token(session: AsyncSession, token: str) -> Actor | None:
    """Return for whom an API token acts, with no more rights than the token has; None if it is not valid."""
    found = await people.person_of_token(session, _hash(token))
    if found is None:
        return None
    person, scope = found
    actor = Actor.of(person)
    return actor if scope == "write" else replace(actor, role=min(actor.role, Role.viewer))


def _hash(secret: str) -> bytes:
    return sha256(secret.encode("utf-8", "surrogatepass")).digest()
