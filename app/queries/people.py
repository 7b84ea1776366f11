"""People: accounts, and names without one."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import bindparam, delete, exists, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from app.tables import ApiToken, Invitation, Person, SignInSession


@dataclass(frozen=True, slots=True)
class PersonView:
    """A person."""

    id: int
    name: str
    is_account: bool
    role: str
    disabled_at: datetime | None


@dataclass(frozen=True, slots=True)
class AccountView:
    """An account as those who look after accounts see it; `seen_at` is when it was last used."""

    id: int
    name: str
    role: str
    disabled_at: datetime | None
    has_password: bool
    oidc_issuer: str | None
    created_at: datetime
    seen_at: datetime | None


@dataclass(frozen=True, slots=True)
class SessionView:
    """A browser in which a person is signed in."""

    id: int
    browser: str
    created_at: datetime
    last_seen_at: datetime
    expires_at: datetime
    is_this: bool


@dataclass(frozen=True, slots=True)
class TokenView:
    """An API token, without the token."""

    id: int
    name: str
    scope: str
    created_at: datetime
    last_used_at: datetime | None
    expires_at: datetime | None
    is_expired: bool


@dataclass(frozen=True, slots=True)
class InvitationView:
    """An invitation that was not used yet: for a new account of `role`, or the password of the account `account`."""

    id: int
    role: str
    person_id: int | None
    account: str | None
    by: str | None
    created_at: datetime
    expires_at: datetime


_SEEN_EVERY = timedelta(minutes=1)
"""The time at which a session or token was last used is written no oftener."""


async def without_account(session: AsyncSession, name: str) -> tuple[bool, int | None]:
    """Return whether there are accounts, disabled ones too, and the id of a name that has none.

    The id is None for a name that has made nothing yet.
    """
    row = (await session.execute(_WITHOUT_ACCOUNT, {"name": name})).one()
    return row.accounts, row.id


_WITHOUT_ACCOUNT = select(
    exists().where(Person.is_account).label("accounts"),
    select(Person.id).where(Person.name == bindparam("name"), ~Person.is_account).scalar_subquery().label("id"),
)


async def ensure_name(session: AsyncSession, name: str) -> int:
    """Return the id of a name without an account, which becomes a person if it is not one yet."""
    return (await ensure_names(session, [name]))[name]


async def ensure_names(session: AsyncSession, names: Collection[str]) -> dict[str, int]:
    """Return the ids of names without accounts, by name; those that are new become people."""
    wanted = list(dict.fromkeys(names))
    rows = [{"name": name, "is_account": False} for name in wanted]
    if rows:
        await session.execute(insert(Person).values(rows).on_conflict_do_nothing())
    found = select(Person.name, Person.id).where(Person.name.in_(wanted), ~Person.is_account)
    return dict((await session.execute(found)).all())


async def find_people(session: AsyncSession, names: Collection[str]) -> dict[str, PersonView]:
    """Return those of these names that have an account, or none and have made something, by name.

    An account goes before a name without one, and is found in whatever case; a disabled one, too.
    """
    rows = select(Person).where(func.lower(Person.name).in_([name.lower() for name in names]))
    accounts: dict[str, PersonView] = {}
    others: dict[str, PersonView] = {}
    for person in await session.scalars(rows):
        (accounts if person.is_account else others)[person.name.lower() if person.is_account else person.name] = _view(
            person
        )
    found = {name: accounts.get(name.lower(), others.get(name)) for name in names}
    return {name: person for name, person in found.items() if person is not None}


async def find_name(session: AsyncSession, name: str) -> int | None:
    """Return the id of a name without an account, None if it has made nothing yet."""
    return await session.scalar(select(Person.id).where(Person.name == name, ~Person.is_account))


async def insert_account(
    session: AsyncSession,
    name: str,
    role: str,
    *,
    password_hash: str | None = None,
    oidc: tuple[str, str] | None = None,
) -> PersonView | None:
    """Make an account; None if there is one of this name, in whatever case, or of this issuer and subject."""
    issuer, subject = oidc or (None, None)
    known_by = {"password_hash": password_hash, "oidc_issuer": issuer, "oidc_subject": subject}
    new = insert(Person).values(name=name, role=role, is_account=True, **known_by)
    made = await session.scalar(new.on_conflict_do_nothing().returning(Person))
    return None if made is None else _view(made)


async def find_account(session: AsyncSession, name: str) -> tuple[PersonView, str | None] | None:
    """Return the account of this name, in whatever case, and the hash of its password."""
    found = await session.scalar(select(Person).where(func.lower(Person.name) == func.lower(name), Person.is_account))
    return None if found is None else (_view(found), found.password_hash)


async def get_account(session: AsyncSession, person_id: int) -> tuple[PersonView, str | None] | None:
    """Return the account with this id, and the hash of its password."""
    found = await session.scalar(select(Person).where(Person.id == person_id, Person.is_account))
    return None if found is None else (_view(found), found.password_hash)


async def account_of_subject(session: AsyncSession, issuer: str, subject: str) -> PersonView | None:
    """Return the account that a sign-in provider knows by this subject."""
    found = await session.scalar(select(Person).where(Person.oidc_issuer == issuer, Person.oidc_subject == subject))
    return None if found is None else _view(found)


async def list_accounts(session: AsyncSession) -> list[AccountView]:
    """Return all accounts by name."""
    seen = func.greatest(
        select(func.max(SignInSession.last_seen_at)).where(SignInSession.person_id == Person.id).scalar_subquery(),
        select(func.max(ApiToken.last_used_at)).where(ApiToken.person_id == Person.id).scalar_subquery(),
    )
    query = select(Person, seen).where(Person.is_account).order_by(func.lower(Person.name))
    return [
        AccountView(
            id=person.id,
            name=person.name,
            role=person.role,
            disabled_at=person.disabled_at,
            has_password=person.password_hash is not None,
            oidc_issuer=person.oidc_issuer,
            created_at=person.created_at,
            seen_at=seen_at,
        )
        for person, seen_at in await session.execute(query)
    ]


async def set_password_hash(session: AsyncSession, person_id: int, password_hash: str) -> None:
    """Change the password of an account."""
    await _change(session, person_id, password_hash=password_hash)


async def set_role(session: AsyncSession, person_id: int, role: str) -> None:
    """Change the role of an account."""
    await _change(session, person_id, role=role)


async def disable_account(session: AsyncSession, person_id: int) -> None:
    """Disable an account: its sessions, tokens and links end."""
    await _change(session, person_id, disabled_at=func.now())
    for table in (SignInSession, ApiToken, Invitation):
        await session.execute(delete(table).where(table.person_id == person_id))


async def enable_account(session: AsyncSession, person_id: int) -> None:
    """Let a disabled account be used again."""
    await _change(session, person_id, disabled_at=None)


async def lock_admins(session: AsyncSession) -> list[int]:
    """Return the ids of the admins whose accounts are not disabled, which until the transaction ends stay so."""
    admins = select(Person.id).where(Person.is_account, Person.role == "admin", Person.disabled_at.is_(None))
    return list(await session.scalars(admins.order_by(Person.id).with_for_update()))


async def _change(session: AsyncSession, person_id: int, **values: Any) -> None:
    changed = update(Person).where(Person.id == person_id).values(values)
    await session.execute(changed, execution_options={"synchronize_session": False})


async def person_of_session(session: AsyncSession, token_hash: bytes) -> PersonView | None:
    """Return who is signed in with this session, None if it has ended or its account was disabled."""
    row = (await session.execute(_OF_SESSION, {"hash": token_hash})).one_or_none()
    if row is None:
        return None
    if row.stale:
        await session.execute(_SEEN, {"hash": token_hash}, execution_options={"synchronize_session": False})
    return _view(row.Person)


_OF_SESSION = (
    select(Person, (SignInSession.last_seen_at < func.now() - _SEEN_EVERY).label("stale"))
    .join(SignInSession, SignInSession.person_id == Person.id)
    .where(
        SignInSession.token_hash == bindparam("hash"),
        SignInSession.expires_at > func.now(),
        Person.disabled_at.is_(None),
    )
)
_SEEN = update(SignInSession).where(SignInSession.token_hash == bindparam("hash")).values(last_seen_at=func.now())


async def person_of_token(session: AsyncSession, token_hash: bytes) -> tuple[PersonView, str] | None:
    """Return for whom an API token acts, and its scope; None if it has ended or the account was disabled."""
    row = (await session.execute(_OF_TOKEN, {"hash": token_hash})).one_or_none()
    if row is None:
        return None
    if row.stale:
        await session.execute(_USED, {"hash": token_hash}, execution_options={"synchronize_session": False})
    return _view(row.Person), row.scope


_OF_TOKEN = (
    select(
        Person,
        ApiToken.scope,
        func.coalesce(ApiToken.last_used_at < func.now() - _SEEN_EVERY, True).label("stale"),
    )
    .join(ApiToken, ApiToken.person_id == Person.id)
    .where(
        ApiToken.token_hash == bindparam("hash"),
        or_(ApiToken.expires_at.is_(None), ApiToken.expires_at > func.now()),
        Person.disabled_at.is_(None),
    )
)
_USED = update(ApiToken).where(ApiToken.token_hash == bindparam("hash")).values(last_used_at=func.now())


async def insert_session(
    session: AsyncSession, person_id: int, token_hash: bytes, *, browser: str, lasts: timedelta
) -> None:
    """Sign a person in."""
    row = {"person_id": person_id, "token_hash": token_hash, "browser": browser, "expires_at": func.now() + lasts}
    await session.execute(insert(SignInSession).values(row))


async def insert_token(
    session: AsyncSession, person_id: int, token_hash: bytes, *, name: str, scope: str, lasts: timedelta | None = None
) -> None:
    """Make an API token that acts for a person."""
    expires = None if lasts is None else func.now() + lasts
    row = {"person_id": person_id, "token_hash": token_hash, "name": name, "scope": scope, "expires_at": expires}
    await session.execute(insert(ApiToken).values(row))


async def list_sessions(session: AsyncSession, person_id: int, token_hash: bytes | None) -> list[SessionView]:
    """Return the browsers in which a person is signed in, the last used one first; `token_hash` is this one's."""
    own = SignInSession.person_id == person_id, SignInSession.expires_at > func.now()
    query = select(SignInSession).where(*own).order_by(SignInSession.last_seen_at.desc(), SignInSession.id.desc())
    return [
        SessionView(row.id, row.browser, row.created_at, row.last_seen_at, row.expires_at, row.token_hash == token_hash)
        for row in await session.scalars(query)
    ]


async def end_session(session: AsyncSession, token_hash: bytes) -> None:
    """Sign a browser out."""
    await session.execute(delete(SignInSession).where(SignInSession.token_hash == token_hash))


async def end_sessions(
    session: AsyncSession, person_id: int, *, number: int | None = None, keep: bytes | None = None
) -> None:
    """Sign a person out of one browser, or of all but the one to keep; sessions that have expired go too."""
    ended = SignInSession.id == number if number is not None else SignInSession.token_hash != (keep or b"")
    own = SignInSession.person_id == person_id
    await session.execute(delete(SignInSession).where(own, or_(ended, SignInSession.expires_at <= func.now())))


async def list_tokens(session: AsyncSession, person_id: int) -> list[TokenView]:
    """Return the API tokens of a person, newest first."""
    expired = func.coalesce(ApiToken.expires_at <= func.now(), False)
    query = select(ApiToken, expired).where(ApiToken.person_id == person_id).order_by(ApiToken.id.desc())
    return [
        TokenView(row.id, row.name, row.scope, row.created_at, row.last_used_at, row.expires_at, is_expired)
        for row, is_expired in await session.execute(query)
    ]


async def delete_token(session: AsyncSession, person_id: int, number: int) -> bool:
    """Revoke one of a person's tokens; True if it was there."""
    own = delete(ApiToken).where(ApiToken.id == number, ApiToken.person_id == person_id).returning(ApiToken.id)
    return await session.scalar(own) is not None


async def insert_invitation(
    session: AsyncSession, token_hash: bytes, *, role: str, person_id: int | None, by: int | None, lasts: timedelta
) -> None:
    """Make an invitation; a new one for the password of an account ends those before."""
    if person_id is not None:
        await session.execute(delete(Invitation).where(Invitation.person_id == person_id, Invitation.used_by.is_(None)))
    row = {"token_hash": token_hash, "role": role, "person_id": person_id, "created_by": by}
    await session.execute(insert(Invitation).values(**row, expires_at=func.now() + lasts))


async def list_invitations(session: AsyncSession) -> list[InvitationView]:
    """Return the invitations that can still be used, newest first."""
    rows = await session.execute(_OPEN.order_by(Invitation.id.desc()))
    return [_invitation(*row) for row in rows]


async def open_invitation(session: AsyncSession, token_hash: bytes, *, for_use: bool = False) -> InvitationView | None:
    """Return the invitation, None if it was used or has expired; `for_use` lets nobody else use it meanwhile."""
    query = _OPEN.where(Invitation.token_hash == token_hash)
    row = (await session.execute(query.with_for_update(of=Invitation) if for_use else query)).one_or_none()
    return None if row is None else _invitation(*row)


_account, _by = aliased(Person), aliased(Person)
_OPEN = (
    select(Invitation, _account.name, _by.name)
    .outerjoin(_account, _account.id == Invitation.person_id)
    .outerjoin(_by, _by.id == Invitation.created_by)
    .where(Invitation.used_by.is_(None), Invitation.expires_at > func.now())
)


async def mark_used(session: AsyncSession, number: int, person_id: int) -> None:
    """Note who used an invitation."""
    await session.execute(update(Invitation).where(Invitation.id == number).values(used_by=person_id))


async def delete_invitation(session: AsyncSession, number: int) -> bool:
    """Revoke an invitation that was not used; True if it was there."""
    unused = delete(Invitation).where(Invitation.id == number, Invitation.used_by.is_(None)).returning(Invitation.id)
    return await session.scalar(unused) is not None


def _invitation(row: Invitation, account: str | None, by: str | None) -> InvitationView:
    return InvitationView(row.id, row.role, row.person_id, account, by, row.created_at, row.expires_at)


def _view(person: Person) -> PersonView:
    return PersonView(person.id, person.name, person.is_account, person.role, person.disabled_at)
