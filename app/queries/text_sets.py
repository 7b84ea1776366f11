"""Text sets and their texts."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any, Literal, get_args

from psycopg.types.json import Jsonb
from sqlalchemy import Select, delete, select
from sqlalchemy.dialects.postgresql import insert as insert_once
from sqlalchemy.ext.asyncio import AsyncSession

from app.queries.sql.copy import copy_rows
from app.queries.sql.paging import one_page
from app.queries.sql.pg_safe import clean_json, clean_text
from app.tables import Person, TextSet, TextSetItem

Split = Literal["train", "calibration", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True, slots=True)
class TextItem:
    """One text of a set. `chat` are turns `{"role", "content"}`, of which `text` holds the words."""

    number: int
    text: str
    split: Split
    label: str | None = None
    group: str | None = None
    pair: str | None = None
    score: float | None = None
    chat: tuple[Mapping[str, str], ...] | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Counts:
    """Counts of a set's texts.

    `duplicates` are texts beyond the first of the same words; `shared` are wordings in more than one part, so that what
    is learned on one part is known on the other.
    """

    texts: int
    labels: Mapping[str, int]
    groups: Mapping[str, int]
    splits: Mapping[str, int]
    pairs: int
    chats: int
    scores: int
    duplicates: int
    shared: int = 0


@dataclass(frozen=True, slots=True)
class TextSetView:
    """A text set, without its texts."""

    id: int
    name: str
    description: str
    source: str
    licence: str
    url: str
    offensive: bool
    hash: str
    counts: Counts
    owner_id: int
    owner: str
    created_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTextSet:
    """A text set to store."""

    name: str
    description: str
    source: str
    licence: str
    url: str
    offensive: bool
    hash: str
    counts: Counts
    owner_id: int


async def add_text_set(session: AsyncSession, new: NewTextSet, items: Sequence[TextItem]) -> int | None:
    """Store a set with its texts and return its id; None if there is one of this name."""
    row = {**asdict(new), "counts": clean_json(asdict(new.counts))}
    set_id: int | None = await session.scalar(
        insert_once(TextSet).values(row).on_conflict_do_nothing().returning(TextSet.id)
    )
    if set_id is None:
        return None
    await copy_rows(session, TextSetItem, _COLUMNS, (_row(set_id, item) for item in items))
    return set_id


_COLUMNS = ("set_id", "number", "text", "split", "label", "group", "pair", "score", "chat", "fields")


def _row(set_id: int, item: TextItem) -> tuple[Any, ...]:
    words = (None if each is None else clean_text(each) for each in (item.label, item.group, item.pair))
    chat = None if item.chat is None else Jsonb(clean_json(item.chat))
    fields = Jsonb(clean_json(item.fields))
    return (set_id, item.number, clean_text(item.text), item.split, *words, item.score, chat, fields)


async def get_text_set(session: AsyncSession, name: str) -> TextSetView | None:
    """Return a text set."""
    return next(iter(await _text_sets(session, _select().where(TextSet.name == name))), None)


async def list_text_sets(
    session: AsyncSession, *, limit: int, before: int | None = None
) -> tuple[list[TextSetView], int | None]:
    """Return the newest sets and where the next page begins; those older than the set `before`."""
    query = _select().order_by(TextSet.id.desc()).limit(limit + 1)
    if before is not None:
        query = query.where(TextSet.id < before)
    found, more = one_page(await _text_sets(session, query), limit)
    return found, found[-1].id if more else None


async def which_are_here(session: AsyncSession, names: Sequence[str]) -> set[str]:
    """Return those names that a set has."""
    return set(await session.scalars(select(TextSet.name).where(TextSet.name.in_(names))))


async def list_texts(
    session: AsyncSession,
    set_id: int,
    *,
    label: str | None = None,
    group: str | None = None,
    split: Split | None = None,
    after: int = -1,
    limit: int | None = None,
) -> list[TextItem]:
    """Return texts of a set in order: those of a label, group or split, and those after the number `after`."""
    query = select(TextSetItem).where(TextSetItem.set_id == set_id, TextSetItem.number > after)
    for column, value in ((TextSetItem.label, label), (TextSetItem.group, group), (TextSetItem.split, split)):
        if value is not None:
            query = query.where(column == value)
    found = await session.scalars(query.order_by(TextSetItem.number).limit(limit))
    return [_item(row) for row in found]


async def delete_text_set(session: AsyncSession, set_id: int) -> None:
    """Delete a set with its texts."""
    await session.execute(delete(TextSet).where(TextSet.id == set_id))


def _item(row: TextSetItem) -> TextItem:
    return TextItem(
        number=row.number,
        text=row.text,
        split=row.split,  # type: ignore[arg-type]  # the database checks it
        label=row.label,
        group=row.group,
        pair=row.pair,
        score=row.score,
        chat=None if row.chat is None else tuple(row.chat),
        fields=row.fields,
    )


def _select() -> Select[TextSet, str]:
    return select(TextSet, Person.name).join(Person, Person.id == TextSet.owner_id)


async def _text_sets(session: AsyncSession, query: Select[TextSet, str]) -> list[TextSetView]:
    return [
        TextSetView(
            id=row.id,
            name=row.name,
            description=row.description,
            source=row.source,
            licence=row.licence,
            url=row.url,
            offensive=row.offensive,
            hash=row.hash,
            counts=_counts(row.counts),
            owner_id=row.owner_id,
            owner=owner,
            created_at=row.created_at,
        )
        for row, owner in await session.execute(query)
    ]


def _counts(stored: Mapping[str, Any]) -> Counts:
    """Return counts in reading order, of which the database keeps none: the most frequent first."""
    found = Counts(**stored)
    return replace(
        found,
        labels=dict(sorted(found.labels.items(), key=lambda each: (-each[1], each[0]))),
        groups=dict(sorted(found.groups.items(), key=lambda each: (-each[1], each[0]))),
        splits={split: found.splits[split] for split in SPLITS if split in found.splits},
    )
