"""Labels with all their history, read for a file and written from one."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.queries.sql.expressions import in_array
from app.queries.sql.visibility import Reader, visible_label, visible_of
from app.tables import (
    Base,
    Comment,
    FeatureIndex,
    Guideline,
    Label,
    LabelDecision,
    LabelRevision,
    LabelSet,
    LabelSetFeature,
    LabelVote,
    Person,
)

NO_ACCOUNT = " (no account)"
"""What a name without an account has behind it, where an account has the same name."""
_AT_ONCE = 1000


def provenance_hash(provenance: Mapping[str, Any]) -> str:
    """Return the hash by which an index is cited: indexes of equal provenance are equal."""
    text = json.dumps(provenance, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


async def index_hashes(session: AsyncSession, sae_id: int) -> dict[int, str]:
    """Return the hashes of all indexes that an SAE has had, by id, the oldest first."""
    query = select(FeatureIndex.id, FeatureIndex.provenance).where(FeatureIndex.sae_id == sae_id)
    rows = await session.execute(query.order_by(FeatureIndex.id))
    return {number: provenance_hash(provenance) for number, provenance in rows}


async def people_names(session: AsyncSession) -> dict[int, str]:
    """Return a name for each person that no other has: a name that is an account's too says that it is not one."""
    rows = (await session.execute(select(Person.id, Person.name, Person.is_account))).all()
    accounts = {row.name for row in rows if row.is_account}
    names: dict[int, str] = {}
    taken: set[str] = set()
    for row in sorted(rows, key=lambda row: (not row.is_account, row.id)):
        name = f"{row.name}{NO_ACCOUNT}" if not row.is_account and row.name in accounts else row.name
        while name in taken:  # an older file gave a person such a name
            name += NO_ACCOUNT
        taken.add(name)
        names[row.id] = name
    return names


async def names_without_account(session: AsyncSession) -> dict[str, int]:
    """Return the ids of all names without an account, by name."""
    rows = await session.execute(select(Person.name, Person.id).where(~Person.is_account))
    return dict(rows.all())


async def sets_of(session: AsyncSession, sae_id: int) -> list[LabelSet]:
    """Return the label sets of an SAE."""
    query = select(LabelSet).where(LabelSet.sae_id == sae_id).order_by(LabelSet.id)
    return list(await session.scalars(query.execution_options(populate_existing=True)))


async def guidelines_of(session: AsyncSession, set_id: int) -> list[Guideline]:
    """Return the versions of a guideline, the first one first."""
    query = select(Guideline).where(Guideline.set_id == set_id).order_by(Guideline.version)
    return list(await session.scalars(query))


async def labels_after(session: AsyncSession, sae_id: int, after: int, *, reader: Reader, limit: int) -> list[Label]:
    """Return labels that are no drafts and that `reader` may see, by id."""
    query = select(Label).where(Label.sae_id == sae_id, Label.id > after, Label.status != "draft")
    # A discarded label is kept for the history, and read by those from whom nothing is hidden.
    seen = visible_label if not reader.sees_all else Label.id > 0
    query = query.where(seen).order_by(Label.id).limit(limit).execution_options(populate_existing=True)
    return list(await session.scalars(query, reader.parameters if not reader.sees_all else {}))


async def revisions_of(
    session: AsyncSession, label_ids: Sequence[int], *, drafts: bool = False
) -> dict[int, list[LabelRevision]]:
    """Return the versions of labels, by label, the first one first; those that were drafts only with `drafts`."""
    query = select(LabelRevision).where(in_array(LabelRevision.label_id, label_ids))
    if not drafts:
        query = query.where(LabelRevision.status != "draft")
    found: dict[int, list[LabelRevision]] = defaultdict(list)
    for row in await session.scalars(query.order_by(LabelRevision.label_id, LabelRevision.version)):
        found[row.label_id].append(row)
    return found


async def votes_of(session: AsyncSession, label_ids: Sequence[int]) -> dict[int, list[LabelVote]]:
    """Return the votes on labels, by label."""
    found: dict[int, list[LabelVote]] = defaultdict(list)
    query = select(LabelVote).where(in_array(LabelVote.label_id, label_ids))
    for row in await session.scalars(query.order_by(LabelVote.label_id, LabelVote.person_id)):
        found[row.label_id].append(row)
    return found


async def decisions_of(session: AsyncSession, set_ids: Sequence[int], *, reader: Reader) -> list[LabelDecision]:
    """Return the decisions in some sets that `reader` may see, in the order they were made."""
    query = select(LabelDecision).where(in_array(LabelDecision.label_set_id, set_ids), visible_of(LabelDecision))
    return list(await session.scalars(query.order_by(LabelDecision.id), reader.parameters))


async def comments_of(session: AsyncSession, set_ids: Sequence[int], *, reader: Reader) -> list[Comment]:
    """Return the comments in some sets that `reader` may see, in the order they were written."""
    query = select(Comment).where(in_array(Comment.label_set_id, set_ids), visible_of(Comment))
    return list(await session.scalars(query.order_by(Comment.id), reader.parameters))


async def owners_of(session: AsyncSession, label_ids: Sequence[int]) -> dict[int, int]:
    """Return whose labels these are, by label."""
    rows = await session.execute(select(Label.id, Label.person_id).where(in_array(Label.id, label_ids)))
    return dict(rows.all())


async def labels_in(session: AsyncSession, set_ids: Sequence[int]) -> dict[tuple[int, int, int], Label]:
    """Return all labels in some sets, drafts too, by set, feature and person."""
    query = select(Label).where(in_array(Label.label_set_id, set_ids)).execution_options(populate_existing=True)
    return {(row.label_set_id, row.feature, row.person_id): row for row in await session.scalars(query)}


async def accounts_named(session: AsyncSession, names: Sequence[str]) -> dict[str, tuple[int, str]]:
    """Return ids and names of accounts, by the names that were given, whatever their case."""
    lower = [name.lower() for name in names]
    query = select(Person.id, Person.name).where(
        Person.is_account, func.lower(Person.name).in_(lower), Person.disabled_at.is_(None)
    )
    found = {name.lower(): (number, name) for number, name in await session.execute(query)}
    return {name: found[name.lower()] for name in names if name.lower() in found}


async def insert_rows(session: AsyncSession, table: type[Base], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as they are; one that is there already is left."""
    for start in range(0, len(rows), _AT_ONCE):
        chunk = [dict(row) for row in rows[start : start + _AT_ONCE]]
        await session.execute(insert(table).values(chunk).on_conflict_do_nothing())


async def insert_labels(session: AsyncSession, rows: Sequence[Mapping[str, Any]]) -> dict[tuple[int, int, int], int]:
    """Write labels, and return their ids by set, feature and person; one that is there already is not among them."""
    made: dict[tuple[int, int, int], int] = {}
    key = Label.label_set_id, Label.feature, Label.person_id
    for start in range(0, len(rows), _AT_ONCE):
        chunk = [dict(row) for row in rows[start : start + _AT_ONCE]]
        new = insert(Label).values(chunk).on_conflict_do_nothing().returning(*key, Label.id)
        made |= {(row[0], row[1], row[2]): row[3] for row in await session.execute(new)}
    return made


async def insert_set_features(session: AsyncSession, set_id: int, features: Sequence[int]) -> None:
    """Let a new set be about these features, in this order."""
    rows = [{"set_id": set_id, "feature": feature, "place": place} for place, feature in enumerate(features)]
    await insert_rows(session, LabelSetFeature, rows)
