"""Claims: names without an account, the counts of their labels, and moving them to an account."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import delete, exists, func, insert, literal, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from app.queries.activity import count_changes
from app.queries.sql.expressions import in_array
from app.tables import (
    Base,
    BlindTest,
    BlindTestResult,
    Comment,
    Label,
    LabelRevision,
    LabelSet,
    LabelVote,
    Person,
)

_OWNED: tuple[Any, ...] = tuple(
    mapper.class_ for mapper in Base.registry.mappers if "owner_id" in mapper.local_table.columns
)
"""All that has an owner, so that a new kind of thing is not forgotten."""


@dataclass(frozen=True, slots=True)
class UnclaimedName:
    """A name without an account, and how many labels and other things are under it."""

    id: int
    name: str
    labels: int
    others: int


async def unclaimed_names(session: AsyncSession) -> list[UnclaimedName]:
    """Return the names without an account that something is under, those with most labels first."""
    labels = select(func.count()).where(Label.person_id == Person.id).scalar_subquery()
    parts = [select(func.count()).where(table.owner_id == Person.id).scalar_subquery() for table in _OWNED]
    parts += [
        select(func.count()).where(Comment.person_id == Person.id).scalar_subquery(),
        select(func.count()).where(LabelSet.created_by == Person.id).scalar_subquery(),
    ]
    others = sum(parts[1:], parts[0])
    query = (
        select(Person.id, Person.name, labels, others).where(~Person.is_account).order_by(labels.desc(), Person.name)
    )
    found = [UnclaimedName(*row) for row in await session.execute(query)]
    return [name for name in found if name.labels or name.others]


async def claim_labels(session: AsyncSession, name_id: int, account_id: int, account: str, by: int) -> tuple[int, int]:
    """Give a name's labels to an account; return how many it got, and how many it has one of its own in place of.

    Each gets a revision with the act `claimed`, of who did it.
    """
    own = aliased(Label)
    has_own = exists().where(
        own.sae_id == Label.sae_id,
        own.feature == Label.feature,
        own.label_set_id == Label.label_set_id,
        own.person_id == account_id,
    )
    given = (
        update(Label)
        .where(Label.person_id == name_id, ~has_own)
        .values(person_id=account_id, author=account, version=Label.version + 1)
        .returning(Label.id, Label.sae_id)
    )
    rows = (await session.execute(given, execution_options={"synchronize_session": False})).all()
    copied = ("version", "author", "status", "explanation", "categories", "interpretability", "confidence", "cant_tell")
    query = select(Label.id, literal("claimed"), literal(by), *(getattr(Label, column) for column in copied))
    query = query.where(in_array(Label.id, [row.id for row in rows]))
    await session.execute(insert(LabelRevision).from_select(["label_id", "act", "person_id", *copied], query))
    of_own = in_array(LabelVote.label_id, [row.id for row in rows])  # nobody votes on a label of their own
    await session.execute(delete(LabelVote).where(of_own, LabelVote.person_id == account_id))
    for sae_id in {row.sae_id for row in rows}:
        await count_changes(session, sae_id)
    left = await session.scalar(select(func.count()).where(Label.person_id == name_id)) or 0
    return len(rows), left


async def claim_others(session: AsyncSession, name_id: int, account_id: int, account: str) -> int:
    """Give a name's lists, edits, probes, comments, label sets and blind tests to an account; return their number.

    Answers to a blind test stay where the account has its own.
    """
    changes = []
    for table in _OWNED:
        shown = {"author": account} if hasattr(table, "author") else {}
        changes.append(update(table).where(table.owner_id == name_id).values(owner_id=account_id, **shown))
    changes.append(update(Comment).where(Comment.person_id == name_id).values(person_id=account_id))
    changes.append(update(LabelSet).where(LabelSet.created_by == name_id).values(created_by=account_id))
    changes.append(update(BlindTest).where(BlindTest.created_by == name_id).values(created_by=account_id))
    own = aliased(BlindTestResult)
    has_own = exists().where(own.test_id == BlindTestResult.test_id, own.person_id == account_id)
    answered = update(BlindTestResult).where(BlindTestResult.person_id == name_id, ~has_own)
    changes.append(answered.values(person_id=account_id))
    given = 0
    for change in changes:
        result: Any = await session.execute(change, execution_options={"synchronize_session": False})
        given += result.rowcount
    return given


async def find_name_by_id(session: AsyncSession, name_id: int) -> str | None:
    """Return the name with this id, None if there is none without an account."""
    query = select(Person.name).where(Person.id == name_id, ~Person.is_account).with_for_update()
    return await session.scalar(query)
