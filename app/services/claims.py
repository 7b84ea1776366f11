"""Giving what a name wrote, before there were accounts, to an account."""

from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import NotFound
from app.queries import claims as queries
from app.queries import people
from app.queries.sql.pg_safe import is_id
from app.services.actors import Actor


@dataclass(frozen=True, slots=True)
class Claim:
    """What an account got of a name: labels, and lists, edits, probes and the like; `refused` labels stayed."""

    name: str
    account: str
    labels: int
    refused: int
    others: int


async def claim(session: AsyncSession, name_id: int, account_id: int, *, by: Actor) -> Claim:
    """Give what a name without an account wrote to an account.

    A label stays where the account has one of its own of that feature in that set.

    Raises:
        NotFound: there is no such name or account.
    """
    assert by.person_id is not None
    name = await queries.find_name_by_id(session, name_id) if is_id(name_id) else None
    found = await people.get_account(session, account_id) if is_id(account_id) else None
    if name is None or found is None:
        raise NotFound("There is no such name without an account, or no such account.")
    account = found[0].name
    labels, refused = await queries.claim_labels(session, name_id, account_id, account, by.person_id)
    others = await queries.claim_others(session, name_id, account_id, account)
    return Claim(name, account, labels, refused, others)
