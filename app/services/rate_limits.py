"""Limits of attempts to sign in, and of changes.

Each act counts in a transaction of its own: that of a refused request is rolled back, and the count must stay.
"""

import ipaddress
from hashlib import sha256

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.db import transaction
from app.errors import TooMany
from app.queries import rate_limits
from app.queries.rate_limits import Rate

ATTEMPTS_PER_NAME = Rate(10, 15 * 60)
ATTEMPTS_PER_ADDRESS = Rate(60, 15 * 60)

Sessions = async_sessionmaker[AsyncSession]


async def count_sign_in(sessions: Sessions, name: str, address: str) -> None:
    """Count an attempt to sign in.

    Raises:
        TooMany: there were too many for this name or from this address.
    """
    async with transaction(sessions) as session:
        await rate_limits.forget_old(session)
        await session.commit()
        by_address = await rate_limits.spend(session, _address_key(address), ATTEMPTS_PER_ADDRESS)
        await session.commit()
        by_name = 0.0 if by_address else await rate_limits.spend(session, _name_key(name), ATTEMPTS_PER_NAME)
    if wait := max(by_address, by_name):
        raise TooMany("attempts to sign in", wait)


async def forget_sign_in(session: AsyncSession, name: str) -> None:
    """Forget the attempts for a name, whose password was right now."""
    await rate_limits.give_back(session, _name_key(name))


async def count_write(session: AsyncSession, who: str, per_minute: int) -> None:
    """Count a change by an account or an address.

    Raises:
        TooMany: there were too many within a minute.
    """
    if wait := await rate_limits.spend(session, f"write {who}", Rate(per_minute, 60)):
        raise TooMany("changes in a short time", wait)


def _name_key(name: str) -> str:
    """Return the key of an account's name: a hash, because people type passwords into the wrong field."""
    folded = name.strip().casefold().encode("utf-8", "replace")
    return f"sign-in name {sha256(folded).hexdigest()}"


def _address_key(address: str) -> str:
    """Return the key of an address; of IPv6 the network, because each household has 2^64 addresses."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return f"sign-in from {address[:60]}"
    network = ipaddress.ip_network((parsed, 64), strict=False) if parsed.version == 6 else parsed
    return f"sign-in from {network}"
