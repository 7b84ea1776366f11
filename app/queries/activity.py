"""What people do: an append-only record, and the count by which pages know that labels changed."""

from dataclasses import asdict, dataclass

from sqlalchemy import bindparam, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.tables import Activity, LabelCount


@dataclass(frozen=True, slots=True)
class Event:
    """Who did what; `subject` is the id of the label, comment or decision that it was done to."""

    person_id: int
    act: str
    sae_id: int
    label_set_id: int
    feature: int | None = None
    subject: int | None = None


async def add_activity(session: AsyncSession, event: Event) -> None:
    """Record what somebody did."""
    await session.execute(insert(Activity).values(asdict(event)))


async def count_changes(session: AsyncSession, sae_id: int) -> None:
    """Let pages about an SAE's features know that something on them changed, without waiting for anybody.

    Two changes at once count in two rows: the second one passes over the row that the first one holds.
    """
    counted = await session.scalar(_COUNT, {"sae": sae_id})
    if counted is None:
        await session.execute(insert(LabelCount).values(sae_id=sae_id, changes=1))


_COUNT = (
    update(LabelCount)
    .where(
        LabelCount.slot
        == select(LabelCount.slot)
        .where(LabelCount.sae_id == bindparam("sae"))
        .order_by(LabelCount.slot)
        .limit(1)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    .values(changes=LabelCount.changes + 1)
    .returning(LabelCount.slot)
    .execution_options(synchronize_session=False)
)
