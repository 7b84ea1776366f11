"""How often something was done lately: in the database, so that all web processes count together.

Each key is a bucket that fills by one with every act and drains steadily; what would overflow it is refused.
"""

from dataclasses import dataclass

from sqlalchemy import bindparam, delete, func, literal, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.tables import RateLimit


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `most` at once, and as many again over `seconds`."""

    most: int
    seconds: float


async def spend(session: AsyncSession, key: str, rate: Rate) -> float:
    """Count one act of `key`; return 0, or after how many seconds one more is allowed, if this one is not."""
    per_second = rate.most / rate.seconds
    parameters = {"key": key, "most": rate.most, "per_second": per_second}
    if await session.scalar(_SPEND, parameters) is not None:
        return 0.0
    spent = await session.scalar(_SPENT, parameters) or 0.0
    return max(0.0, spent + 1 - rate.most) / per_second


async def give_back(session: AsyncSession, key: str) -> None:
    """Forget what `key` spent."""
    await session.execute(delete(RateLimit).where(RateLimit.key == key))


async def forget_old(session: AsyncSession) -> None:
    """Remove what has long drained."""
    await session.execute(delete(RateLimit).where(RateLimit.at < func.now() - func.make_interval(0, 0, 0, 1)))


_now = func.clock_timestamp()
_left = func.greatest(
    0.0,
    RateLimit.spent - func.extract("epoch", _now - RateLimit.at) * bindparam("per_second", type_=RateLimit.spent.type),
)
_SPEND = (
    insert(RateLimit)
    .values(key=bindparam("key"), spent=literal(1.0), at=_now)
    .on_conflict_do_update(
        index_elements=[RateLimit.key], set_={"spent": _left + 1, "at": _now}, where=_left + 1 <= bindparam("most")
    )
    .returning(RateLimit.key)
)
_SPENT = select(_left).where(RateLimit.key == bindparam("key"))
