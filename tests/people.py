"""People with accounts, for tests."""

from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncEngine

from app.db import create_sessionmaker, transaction
from app.services.accounts import create_account, create_token, start_session
from app.services.actors import Actor, Role


@dataclass(frozen=True, slots=True)
class SignedIn:
    """An account that is signed in: `headers` for programs, `cookies` for browsers."""

    actor: Actor
    headers: dict[str, str]
    cookies: dict[str, str]


async def sign_in(engine: AsyncEngine, name: str, role: Role = Role.labeller) -> SignedIn:
    """Make an account, a token and a session of it."""
    async with transaction(create_sessionmaker(engine)) as session:
        actor = await create_account(session, name, role)
        assert actor.person_id is not None
        token = await create_token(session, actor.person_id, "tests")
        secret = await start_session(session, actor.person_id)
    return SignedIn(actor, {"Authorization": f"Bearer {token}"}, {"session": secret})
