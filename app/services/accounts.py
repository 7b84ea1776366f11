"""Accounts, and the secrets that prove who somebody is: sessions of browsers, tokens of programs, invitations.

The database keeps a secret's hash alone. SHA-256 does, because the secrets are random and long; passwords are not.
"""

from dataclasses import replace
from datetime import timedelta
from hashlib import sha256
from secrets import token_urlsafe
from typing import Literal

from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import Conflict, NotFound, Unprocessable
from app.queries import people
from app.queries.people import InvitationView, PersonView
from app.queries.sql.pg_safe import is_id, storable
from app.services.account_names import account_name
from app.services.actors import Actor, Role
from app.services.labels import tidy_name
from app.services.passwords import hash_password, verify_password

SESSION_LASTS = timedelta(days=30)
INVITATION_LASTS = timedelta(days=7)
TOKEN_PREFIX = "seesae_"  # noqa: S105 - with it people and scanners know a token that leaked
_SECRET_BYTES = 32

Scope = Literal["read", "write"]


async def create_account(session: AsyncSession, name: str, role: Role, *, password_hash: str | None = None) -> Actor:
    """Make an account.

    Raises:
        Unprocessable: the name is not one that an account can have.
        Conflict: there is an account of this name.
    """
    name = account_name(name)
    made = await people.insert_account(session, name, role.name, password_hash=password_hash)
    if made is None:
        raise Conflict(f"There is an account named {name} already: choose another name.")
    return Actor.of(made)


async def find_account(session: AsyncSession, name: str) -> PersonView:
    """Return the account of this name, in whatever case.

    Raises:
        NotFound: there is none.
    """
    found = await people.find_account(session, name) if storable(name) else None
    if found is None:
        raise NotFound(f"There is no account named {name[:80]}. `seesae user list` lists them.")
    return found[0]


async def check_sign_in(session: AsyncSession, name: str, password: str) -> PersonView | None:
    """Return whose name and password these are; None if either is wrong, or the account is disabled.

    It takes the same time in each case.
    """
    found = await people.find_account(session, name.strip()) if storable(name) else None
    person, kept = found or (None, None)
    await session.commit()  # no connection is held for as long as the hash takes
    right, renewed = await verify_password(password, kept)
    if not right or person is None or person.disabled_at:
        return None
    if renewed:
        await people.set_password_hash(session, person.id, renewed)
    return person


async def start_session(session: AsyncSession, person_id: int, *, browser: str = "", replaced: str = "") -> str:
    """Sign a person in; return the secret for the cookie, which is new with every sign-in.

    Args:
        browser: what it calls itself.
        replaced: the secret that its cookie had, which is of no use any more.
    """
    if replaced:
        await people.end_session(session, _hash(replaced))
    secret = token_urlsafe(_SECRET_BYTES)
    await people.insert_session(session, person_id, _hash(secret), browser=browser[:200], lasts=SESSION_LASTS)
    return secret


async def end_session(session: AsyncSession, secret: str) -> None:
    """Sign a browser out."""
    await people.end_session(session, _hash(secret))


async def create_token(
    session: AsyncSession, person_id: int, name: str, *, scope: Scope = "write", lasts: timedelta | None = None
) -> str:
    """Make an API token that acts for a person; return it, to be shown once.

    Raises:
        Unprocessable: the name is empty, too long or cannot be stored.
    """
    secret = TOKEN_PREFIX + token_urlsafe(_SECRET_BYTES)
    name = tidy_name("token", name)
    await people.insert_token(session, person_id, _hash(secret), name=name, scope=scope, lasts=lasts)
    return secret


async def revoke_token(session: AsyncSession, actor: Actor, number: int) -> None:
    """End one of the actor's tokens.

    Raises:
        NotFound: they have no such token.
    """
    assert actor.person_id is not None
    if not is_id(number) or not await people.delete_token(session, actor.person_id, number):
        raise NotFound("You have no such token: it was revoked already.")


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


async def own_sessions(session: AsyncSession, actor: Actor, secret: str) -> list[people.SessionView]:
    """Return the browsers in which the actor is signed in; `secret` is of this one."""
    assert actor.person_id is not None
    return await people.list_sessions(session, actor.person_id, _hash(secret))


async def end_own_session(session: AsyncSession, actor: Actor, number: int) -> None:
    """Sign the actor out of one browser."""
    assert actor.person_id is not None
    if is_id(number):
        await people.end_sessions(session, actor.person_id, number=number)


async def end_other_sessions(session: AsyncSession, actor: Actor, secret: str) -> None:
    """Sign the actor out of every browser but that with this secret."""
    assert actor.person_id is not None
    await people.end_sessions(session, actor.person_id, keep=_hash(secret))


async def change_password(session: AsyncSession, actor: Actor, current: str, new: str, *, secret: str) -> None:
    """Change the actor's password, and sign them out of every other browser.

    Raises:
        Unprocessable: the current password is wrong, or the new one too short or too long.
    """
    assert actor.person_id is not None
    found = await people.get_account(session, actor.person_id)
    right, _ = await verify_password(current, found[1] if found else None)
    if not right:
        raise Unprocessable("This is not your current password.")
    await people.set_password_hash(session, actor.person_id, await hash_password(new))
    await end_other_sessions(session, actor, secret)


# --- invitations -------------------------------------------------------------------------------------------------


async def invite(session: AsyncSession, role: Role, *, by: Actor | None = None) -> str:
    """Return the secret of an invitation to make an account of this role; `by` is None for the command line."""
    return await _invite(session, role.name, None, by)


async def invite_to_set_password(session: AsyncSession, person_id: int, *, by: Actor | None = None) -> str:
    """Return the secret of a link with which a person sets the password of their account.

    Raises:
        NotFound: there is no such account.
        Conflict: it is disabled.
    """
    person = await _account(session, person_id)
    if person.disabled_at:
        raise Conflict(f"The account {person.name} is disabled: enable it first.")
    return await _invite(session, person.role, person.id, by)


async def _invite(session: AsyncSession, role: str, person_id: int | None, by: Actor | None) -> str:
    secret = token_urlsafe(_SECRET_BYTES)
    by_id = by.person_id if by else None
    await people.insert_invitation(
        session, _hash(secret), role=role, person_id=person_id, by=by_id, lasts=INVITATION_LASTS
    )
    return secret


async def find_invitation(session: AsyncSession, secret: str, *, for_use: bool = False) -> InvitationView:
    """Return an invitation that can be used.

    Raises:
        NotFound: it was used, has expired or was revoked, or the link is cut.
    """
    found = await people.open_invitation(session, _hash(secret), for_use=for_use)
    if found is None:
        raise NotFound(
            "This invitation is not valid: it was used already, has expired, or the link is cut. Ask for a new one."
        )
    return found


async def accept_invitation(session: AsyncSession, secret: str, *, name: str, password: str) -> int:
    """Make the account of an invitation, or set its password, with which every session of it ends; return its id.

    Raises:
        NotFound: the invitation is not valid.
        Unprocessable: the name or the password is not one that an account can have.
        Conflict: there is an account of this name.
    """
    invitation = await find_invitation(session, secret, for_use=True)
    password_hash = await hash_password(password)
    if invitation.person_id is None:
        made = await create_account(session, name, Role[invitation.role], password_hash=password_hash)
        assert made.person_id is not None
        person_id = made.person_id
    else:
        person_id = invitation.person_id
        await people.set_password_hash(session, person_id, password_hash)
        await people.end_sessions(session, person_id)
    await people.mark_used(session, invitation.id, person_id)
    return person_id


async def revoke_invitation(session: AsyncSession, number: int) -> None:
    """End an invitation that was not used.

    Raises:
        NotFound: there is none.
    """
    if not is_id(number) or not await people.delete_invitation(session, number):
        raise NotFound("There is no such invitation: it was used or revoked already.")


# --- looking after accounts --------------------------------------------------------------------------------------


async def change_role(session: AsyncSession, person_id: int, role: Role) -> PersonView:
    """Change the role of an account.

    Raises:
        NotFound: there is no such account.
        Conflict: it is the only admin's.
    """
    person = await _account(session, person_id)
    if role is not Role.admin:
        await _keep_an_admin(session, person)
    await people.set_role(session, person_id, role.name)
    return person


async def disable_account(session: AsyncSession, person_id: int) -> PersonView:
    """Disable an account: its sessions, tokens and links end, and what it made stays.

    Raises:
        NotFound: there is no such account.
        Conflict: it is the only admin's.
    """
    person = await _account(session, person_id)
    await _keep_an_admin(session, person)
    await people.disable_account(session, person_id)
    return person


async def enable_account(session: AsyncSession, person_id: int) -> PersonView:
    """Let a disabled account be used again.

    Raises:
        NotFound: there is no such account.
    """
    person = await _account(session, person_id)
    await people.enable_account(session, person_id)
    return person


async def _account(session: AsyncSession, person_id: int) -> PersonView:
    found = await people.get_account(session, person_id) if is_id(person_id) else None
    if found is None:
        raise NotFound("There is no such account.")
    return found[0]


async def _keep_an_admin(session: AsyncSession, person: PersonView) -> None:
    if await people.lock_admins(session) == [person.id]:
        raise Conflict(f"{person.name} is the only admin: make somebody else an admin first.")


def _hash(secret: str) -> bytes:
    return sha256(secret.encode("utf-8", "surrogatepass")).digest()
