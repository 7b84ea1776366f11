"""People: accounts, and names without one."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import bindparam, exists, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.tables import ApiToken, Person, SignInSession


@dataclass(frozen=True, slots=True)
class PersonView:
    """A person."""

    id: int
    name: str
    is_account: bool
    role: str
    disabled_at: datetime | None


_SEEN_EVERY = timedelta(minutes=1)
"""The time at which a session or token was last used is written no oftener."""


async def without_account(session: AsyncSession, name: str) -> tuple[bool, int | None]:
    """Return whether anybody has an account that can be used, and the id of a name that has none.

    The id is None for a name that has made nothing yet.
    """
    row = (await session.execute(_WITHOUT_ACCOUNT, {"name": name})).one()
    return row.accounts, row.id


_WITHOUT_ACCOUNT = select(
    exists().where(Person.is_account, Person.disabled_at.is_(None)).label("accounts"),
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
    return {name: number for name, number in await session.execute(found)}  # noqa: C416 - rows are no tuples


async def find_people(session: AsyncSession, names: Collection[str]) -> dict[str, int]:
    """Return the ids of those of these names that have an account, or none and have made something, by name.

    An account goes before a name without one, and is found in whatever case.
    """
    rows = select(Person.name, Person.id, Person.is_account).where(
        func.lower(Person.name).in_([name.lower() for name in names]), Person.disabled_at.is_(None)
    )
    accounts: dict[str, int] = {}
    others: dict[str, int] = {}
    for name, number, is_account in await session.execute(rows):
        (accounts if is_account else others)[name.lower() if is_account else name] = number
    found = {name: accounts.get(name.lower(), others.get(name)) for name in names}
    return {name: number for name, number in found.items() if number is not None}


async def find_name(session: AsyncSession, name: str) -> int | None:
    """Return the id of a name without an account, None if it has made nothing yet."""
    return await session.scalar(select(Person.id).where(Person.name == name, ~Person.is_account))


async def insert_account(
    session: AsyncSession, name: str, role: str, *, password_hash: str | None = None
) -> PersonView | None:
    """Make an account; None if there is one of this name, in whatever case."""
    new = insert(Person).values(name=name, role=role, is_account=True, password_hash=password_hash)
    made = await session.scalar(new.on_conflict_do_nothing().returning(Person))
    return None if made is None else _view(made)


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


def _view(person: Person) -> PersonView:
    return PersonView(person.id, person.name, person.is_account, person.role, person.disabled_at)
