"""Lists of features that people keep.

What changes a list first takes its row (`get_list` with `for_change`), so that changes of one list come one after
another; the last step of each is `bump_version`, which counts it.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any

from sqlalchemy import ColumnElement, Integer, Select, bindparam, case, delete, func, literal, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from app.queries.feature_list import FeatureRow, feature_rows
from app.queries.labels import LabelSummary, label_summaries
from app.queries.saes import SaeDetail, get_saes
from app.queries.sql.copy import copy_rows
from app.queries.sql.expressions import in_array
from app.queries.sql.paging import one_page
from app.queries.sql.pg_safe import MAX_INTEGER, storable
from app.tables import Sae, SavedList, SavedListItem

CHOICES = 100
"""Most lists that a feature's page offers to add to."""


@dataclass(frozen=True, slots=True)
class ListView:
    """A list without its features. `text_version` is the version of the last change of name or description."""

    id: int
    public_id: str
    name: str
    description: str
    author: str
    owner_id: int
    version: int
    text_version: int
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class ListSummary:
    """A list, with its number of features per SAE: slugs with counts, largest first."""

    list: ListView
    saes: tuple[tuple[str, int], ...]

    @property
    def features(self) -> int:
        """Number of features of all SAEs."""
        return sum(count for _, count in self.saes)


@dataclass(frozen=True, slots=True)
class ListItem:
    """A feature in a list; `sae` is the slug, `note_version` the list's version when the note was last written."""

    sae_id: int
    sae: str
    feature: int
    position: int
    note: str
    note_version: int


@dataclass(frozen=True, slots=True)
class ListedFeature:
    """An item with its feature's row, which is None if the SAE has no index."""

    item: ListItem
    sae: SaeDetail
    row: FeatureRow | None
    label: LabelSummary | None


@dataclass(frozen=True, slots=True)
class ListOfFeature:
    """A list for a feature's page, with its note on that feature."""

    public_id: str
    name: str
    note: str = ""


@dataclass(frozen=True, slots=True)
class FeatureLists:
    """Lists that hold a feature, and the last changed of the others; at most `CHOICES` each."""

    holding: tuple[ListOfFeature, ...]
    others: tuple[ListOfFeature, ...]


# --- whole lists -------------------------------------------------------------------------------------------------


async def insert_list(
    session: AsyncSession, *, public_id: str, name: str, description: str, author: str, owner_id: int
) -> ListView | None:
    """Create an empty list; return None if there is one at this address."""
    new = insert(SavedList).values(
        public_id=public_id, name=name, description=description, author=author, owner_id=owner_id
    )
    kept = await session.scalar(new.on_conflict_do_nothing().returning(SavedList))
    return None if kept is None else _view(kept)


async def get_list(session: AsyncSession, public_id: str, *, for_change: bool = False) -> ListView | None:
    """Return the list with this public id; `for_change` locks it until the transaction ends."""
    if not storable(public_id):
        return None
    found = select(SavedList).where(SavedList.public_id == public_id).execution_options(populate_existing=True)
    kept = await session.scalar(found.with_for_update() if for_change else found)
    return None if kept is None else _view(kept)


async def list_lists(
    session: AsyncSession, *, limit: int, before: int | None = None
) -> tuple[list[ListSummary], int | None]:
    """Return lists, newest first, and the `before` of the next page, None if this is the last."""
    newest = select(SavedList).order_by(SavedList.id.desc()).execution_options(populate_existing=True)
    if before is not None:
        newest = newest.where(SavedList.id < before)
    lists, more = one_page((await session.scalars(newest.limit(limit + 1))).all(), limit)
    return await summaries(session, [_view(kept) for kept in lists]), lists[-1].id if more else None


async def summaries(session: AsyncSession, lists: Sequence[ListView]) -> list[ListSummary]:
    """Return each of these lists with its number of features per SAE."""
    count = func.count().label("count")
    rows = await session.execute(
        select(SavedListItem.list_id, Sae.slug, count)
        .join(Sae, Sae.id == SavedListItem.sae_id)
        .where(in_array(SavedListItem.list_id, [each.id for each in lists]))
        .group_by(SavedListItem.list_id, Sae.slug)
        .order_by(SavedListItem.list_id, count.desc(), Sae.slug)
    )
    held = {
        number: tuple((slug, count) for _, slug, count in group)
        for number, group in groupby(rows, key=lambda row: row[0])
    }
    return [ListSummary(each, held.get(each.id, ())) for each in lists]


async def bump_version(
    session: AsyncSession, list_id: int, *, name: str | None = None, description: str = ""
) -> ListView:
    """Raise a list's version by one; with a `name`, also write name and description."""
    text = {} if name is None else {"name": name, "description": description, "text_version": SavedList.version + 1}
    changed = (
        update(SavedList)
        .where(SavedList.id == list_id)
        .values(version=SavedList.version + 1, updated_at=func.now(), **text)
        .returning(SavedList)
    )
    return _view((await session.scalars(changed, execution_options={"populate_existing": True})).one())


async def delete_list(session: AsyncSession, list_id: int) -> None:
    """Delete a list with its items."""
    await session.execute(
        delete(SavedList).where(SavedList.id == list_id), execution_options={"synchronize_session": False}
    )


def _view(kept: SavedList) -> ListView:
    return ListView(
        id=kept.id,
        public_id=kept.public_id,
        name=kept.name,
        description=kept.description,
        author=kept.author,
        owner_id=kept.owner_id,
        version=kept.version,
        text_version=kept.text_version,
        created_at=kept.created_at,
        updated_at=kept.updated_at,
    )


# --- items -------------------------------------------------------------------------------------------------------


async def list_items(
    session: AsyncSession, list_id: int, *, after: int = 0, limit: int | None = None
) -> list[ListItem]:
    """Return items of a list in order, starting after the position `after`."""
    items = _items().where(SavedListItem.list_id == list_id, SavedListItem.position > min(max(after, 0), MAX_INTEGER))
    rows = await session.execute(items.order_by(SavedListItem.position).limit(limit))
    return [ListItem(*row) for row in rows]


async def find_item(session: AsyncSession, list_id: int, sae: str, feature: int) -> ListItem | None:
    """Return the item of this feature; `sae` is a slug."""
    if not storable(sae) or feature not in range(MAX_INTEGER + 1):
        return None
    item = _items().where(SavedListItem.list_id == list_id, Sae.slug == sae, SavedListItem.feature == feature)
    row = (await session.execute(item)).one_or_none()
    return None if row is None else ListItem(*row)


def _items() -> Select[int, str, int, int, str, int]:
    return select(
        SavedListItem.sae_id,
        Sae.slug,
        SavedListItem.feature,
        SavedListItem.position,
        SavedListItem.note,
        SavedListItem.note_version,
    ).join(Sae, Sae.id == SavedListItem.sae_id)


async def count_items(session: AsyncSession, list_id: int) -> int:
    """Return the number of features in a list."""
    held = select(func.count()).select_from(SavedListItem).where(SavedListItem.list_id == list_id)
    return await session.scalar(held) or 0


async def insert_item(
    session: AsyncSession, list_id: int, sae_id: int, feature: int, *, note: str, version: int, position: int | None
) -> None:
    """Add a feature that the list does not hold, at the end or at a position; later ones move back."""
    if position is None:
        last = select(func.max(SavedListItem.position)).where(SavedListItem.list_id == list_id)
        position = (await session.scalar(last) or 0) + 1
    else:
        behind = (SavedListItem.list_id == list_id, SavedListItem.position >= position)
        moved = update(SavedListItem).where(*behind).values(position=SavedListItem.position + 1)
        await session.execute(moved, execution_options={"synchronize_session": False})
    await session.execute(
        insert(SavedListItem).values(
            list_id=list_id, sae_id=sae_id, feature=feature, position=position, note=note, note_version=version
        )
    )


async def replace_items(
    session: AsyncSession, list_id: int, items: Iterable[tuple[int, int, str]], *, version: int
) -> None:
    """Replace the items of a list by these (SAE's id, feature, note), in this order."""
    held = delete(SavedListItem).where(SavedListItem.list_id == list_id)
    await session.execute(held, execution_options={"synchronize_session": False})
    rows = (
        (list_id, sae_id, feature, position, note, version) for position, (sae_id, feature, note) in enumerate(items, 1)
    )
    columns = ("list_id", "sae_id", "feature", "position", "note", "note_version")
    await copy_rows(session, SavedListItem, columns, rows)


async def write_note(session: AsyncSession, list_id: int, item: ListItem, note: str, *, version: int) -> None:
    """Write the note of an item."""
    written = update(SavedListItem).where(*_of(list_id, item)).values(note=note, note_version=version)
    await session.execute(written, execution_options={"synchronize_session": False})


async def move_item(session: AsyncSession, list_id: int, item: ListItem, *, up: bool) -> bool:
    """Swap an item with the one before or after it; return False if there is none."""
    position = SavedListItem.position
    beside = select(func.max(position) if up else func.min(position)).where(
        SavedListItem.list_id == list_id, position < item.position if up else position > item.position
    )
    other = await session.scalar(beside)
    if other is None:
        return False
    exchanged = (
        update(SavedListItem)
        .where(SavedListItem.list_id == list_id, position.in_((item.position, other)))
        .values(position=case((position == other, item.position), else_=other))
    )
    await session.execute(exchanged, execution_options={"synchronize_session": False})
    return True


async def delete_item(session: AsyncSession, list_id: int, item: ListItem) -> None:
    """Remove an item."""
    held = delete(SavedListItem).where(*_of(list_id, item))
    await session.execute(held, execution_options={"synchronize_session": False})


def _of(list_id: int, item: ListItem) -> tuple[ColumnElement[bool], ...]:
    return (
        SavedListItem.list_id == list_id,
        SavedListItem.sae_id == item.sae_id,
        SavedListItem.feature == item.feature,
    )


# --- with features -----------------------------------------------------------------------------------------------


async def listed(
    session: AsyncSession, items: Collection[ListItem], *, with_examples: bool = True
) -> list[ListedFeature]:
    """Return items with their features; the number of queries grows with the SAEs, not with the features."""
    saes = await get_saes(session, {item.sae_id for item in items})
    rows: dict[tuple[int, int], FeatureRow] = {}
    labels: dict[tuple[int, int], LabelSummary] = {}
    for sae in saes.values():
        numbers = [item.feature for item in items if item.sae_id == sae.id]
        if sae.index is None:
            found = await label_summaries(session, sae.id, numbers)
            labels |= {(sae.id, number): label for number, label in found.items()}
        else:
            known = await feature_rows(session, sae, numbers, with_examples=with_examples)
            rows |= {(sae.id, number): row for number, row in known.items()}
    shown = []
    for item in items:
        key = item.sae_id, item.feature
        row = rows.get(key)
        shown.append(ListedFeature(item, saes[item.sae_id], row, row.label if row else labels.get(key)))
    return shown


async def lists_of_feature(
    session: AsyncSession, sae_id: int, feature: int, *, owner_id: int | None = None
) -> FeatureLists:
    """Return lists that hold a feature, and lists that do not; of those, with `owner_id`, only one person's."""
    rows = (await session.execute(_OF_FEATURE, {"sae": sae_id, "feature": feature, "owner": owner_id})).all()
    holding = tuple(ListOfFeature(row.public_id, row.name, row.note) for row in rows if row.held)
    held = {each.public_id for each in holding}
    others = (ListOfFeature(row.public_id, row.name) for row in rows if not row.held)
    return FeatureLists(holding, tuple(each for each in others if each.public_id not in held))


def _of_feature(choices: int = CHOICES) -> Select[Any]:
    """Both kinds in one query: most lists that hold the feature are among the last changed ones too."""
    named = SavedList.public_id, SavedList.name, SavedList.updated_at, SavedList.id
    holding = (
        select(*named, SavedListItem.note, literal(True).label("held"))
        .join(SavedListItem, SavedListItem.list_id == SavedList.id)
        .where(SavedListItem.sae_id == bindparam("sae"), SavedListItem.feature == bindparam("feature"))
    )
    owner = bindparam("owner", type_=Integer)
    recent = select(*named, literal("").label("note"), literal(False).label("held")).where(
        or_(owner.is_(None), SavedList.owner_id == owner)
    )
    last_changed = [
        each.order_by(SavedList.updated_at.desc(), SavedList.id.desc()).limit(choices).subquery()
        for each in (holding, recent)
    ]
    together = select(last_changed[0]).union_all(select(last_changed[1])).subquery()
    return select(together).order_by(together.c.updated_at.desc(), together.c.id.desc())


_OF_FEATURE = _of_feature()
