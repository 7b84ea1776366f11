"""Rules of lists: their limits, each feature once, and no text lost.

A change says which version of the list it was made from. A change of the whole list is refused if the list has another
version by now. A change of one part (name and description, one note) is refused only if that part has changed since,
so that two people, or two tabs, can work on one list. What replaces no text (adding, moving) is never refused.

A list is its owner's: whoever has the link may read it, and from a reviewer up others may change it.
"""

from base64 import urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from secrets import token_urlsafe

from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import Conflict, NotFound, Unprocessable
from app.queries import lists as queries
from app.queries.lists import ListItem, ListView, get_list
from app.queries.saes import sae_sizes
from app.queries.sql.pg_safe import MAX_INTEGER, storable
from app.services.actors import Actor, ensure_person
from app.services.labels import tidy_name
from app.services.texts import one_line, trim, unix_lines

MAX_NAME = 80
MAX_DESCRIPTION = 2_000
MAX_NOTE = 500
MAX_ITEMS = 5_000
MAX_KEY = 200
"""Characters in the key of a request that makes a list."""

_ID_BYTES = 9
"""Random bytes in a list's address: 72 bits, twelve characters."""


@dataclass(frozen=True, slots=True)
class ListText:
    """Name and description of a list."""

    name: str
    description: str = ""


@dataclass(frozen=True, slots=True)
class NewItem:
    """A feature to put into a list; `sae` is a slug."""

    sae: str
    feature: int
    note: str = ""


class ListConflict(Conflict):
    """The list, or the part of it that was to be changed, is not what it was when it was read.

    `current` is the list as it is, `item` the item in question, None where it was taken out meanwhile.
    """

    def __init__(self, message: str, current: ListView, item: ListItem | None = None) -> None:
        super().__init__(message)
        self.current = current
        self.item = item


async def find_list(session: AsyncSession, public_id: str) -> ListView:
    """The list at this address.

    Raises:
        NotFound: there is none.
    """
    return _found(await get_list(session, public_id))


async def create_list(
    session: AsyncSession, text: ListText, items: Sequence[NewItem] = (), *, actor: Actor, key: str = ""
) -> ListView:
    """A new list, at a new address; or, if the actor sent the same content with the same `key` before, that list.

    Args:
        key: any random text; a request that is sent twice then makes one list.

    Raises:
        Unprocessable: name, description, author or items are not as a list can hold them.
    """
    author = tidy_name("author", actor.name)
    text = _tidy(text)
    rows = await _rows(session, items)
    public_id = _public_id(key, author, text, rows) if key else token_urlsafe(_ID_BYTES)
    new = await queries.insert_list(
        session,
        public_id=public_id,
        name=text.name,
        description=text.description,
        author=author,
        owner_id=await ensure_person(session, replace(actor, name=author)),
    )
    if new is None:
        return await find_list(session, public_id)
    await queries.replace_items(session, new.id, rows, version=new.version)
    return new


def _public_id(*request: object) -> str:
    """The address of the list that a request with a key makes: a hash, so that the same request finds its list."""
    return urlsafe_b64encode(sha256(repr(request).encode("utf-8", "surrogatepass")).digest()[:_ID_BYTES]).decode()


async def replace_list(
    session: AsyncSession,
    public_id: str,
    text: ListText,
    items: Sequence[NewItem],
    *,
    actor: Actor,
    expected_version: int,
) -> ListView:
    """Let a list be what is given, all of it.

    Raises:
        NotFound: there is no such list.
        Forbidden: it is somebody else's.
        Unprocessable: as for a new one.
        ListConflict: the list has another version by now, and is not what is given already.
    """
    text = _tidy(text)
    rows = await _rows(session, items)
    current = await _taken(session, public_id, actor)
    if current.version != expected_version and await _holds(session, current, text, rows):
        return current
    _check_version(current, expected_version)
    changed = await queries.bump_version(session, current.id, name=text.name, description=text.description)
    await queries.replace_items(session, current.id, rows, version=changed.version)
    return changed


async def describe_list(
    session: AsyncSession, public_id: str, text: ListText, *, actor: Actor, read_version: int
) -> ListView:
    """Change name and description.

    Raises:
        NotFound: there is no such list.
        Forbidden: it is somebody else's.
        Unprocessable: they are not as a list can hold them.
        ListConflict: one of them was changed since `read_version`.
    """
    text = _tidy(text)
    current = await _taken(session, public_id, actor)
    if (text.name, text.description) == (current.name, current.description):
        return current
    if read_version not in range(current.text_version, current.version + 1):
        raise ListConflict("Name or description changed since you opened the list: compare and save again.", current)
    return await queries.bump_version(session, current.id, name=text.name, description=text.description)


async def delete_list(
    session: AsyncSession, public_id: str, *, actor: Actor, expected_version: int | None = None
) -> None:
    """Delete a list, for good.

    Raises:
        NotFound: there is no such list.
        Forbidden: it is somebody else's.
        ListConflict: it has another version than `expected_version` by now.
    """
    current = await _taken(session, public_id, actor)
    if expected_version is not None:
        _check_version(current, expected_version)
    await queries.delete_list(session, current.id)


async def add_item(
    session: AsyncSession, public_id: str, new: NewItem, *, actor: Actor, position: int | None = None
) -> ListView:
    """Put a feature into a list: at the end, or at a position. One that the list holds with this note stays.

    Raises:
        NotFound: there is no such list.
        Forbidden: it is somebody else's.
        Unprocessable: there is no such feature, the list holds it with another note, or is full; the note is too long.
    """
    [(sae_id, feature, note)] = await _rows(session, [new])
    if position is not None and position not in range(1, MAX_INTEGER - MAX_ITEMS):
        raise Unprocessable("A position in a list is a number from 1 up.")
    current = await _taken(session, public_id, actor)
    if held := await queries.find_item(session, current.id, new.sae, feature):
        if held.note == note:
            return current
        raise Unprocessable(f"Feature {feature} of {new.sae} is in the list “{current.name}” already.")
    if await queries.count_items(session, current.id) >= MAX_ITEMS:
        raise Unprocessable(f"The list “{current.name}” is full: it holds {MAX_ITEMS:,} features. Begin another one.")
    changed = await queries.bump_version(session, current.id)
    await queries.insert_item(
        session, current.id, sae_id, feature, note=note, version=changed.version, position=position
    )
    return changed


async def write_note(
    session: AsyncSession, public_id: str, sae: str, feature: int, note: str, *, actor: Actor, read_version: int
) -> ListView:
    """Change the note of a feature in a list.

    Raises:
        NotFound: there is no such list.
        Forbidden: it is somebody else's.
        Unprocessable: the note is not as a list can hold it.
        ListConflict: the note was changed since `read_version`, or the feature was taken out.
    """
    note = _tidy_note(note)
    current, item = await _taken_item(session, public_id, actor, sae, feature)
    if item.note == note:
        return current
    if read_version not in range(item.note_version, current.version + 1):
        raise ListConflict("This note changed since you opened the list: compare both and save again.", current, item)
    changed = await queries.bump_version(session, current.id)
    await queries.write_note(session, current.id, item, note, version=changed.version)
    return changed


async def move_item(
    session: AsyncSession, public_id: str, sae: str, feature: int, *, actor: Actor, up: bool
) -> ListView:
    """Move a feature up or down by one place; the first and the last stay where they are.

    Raises:
        NotFound: there is no such list.
        Forbidden: it is somebody else's.
        ListConflict: the feature was taken out of it.
    """
    current, item = await _taken_item(session, public_id, actor, sae, feature)
    moved = await queries.move_item(session, current.id, item, up=up)
    return await queries.bump_version(session, current.id) if moved else current


async def remove_item(
    session: AsyncSession, public_id: str, sae: str, feature: int, *, actor: Actor, read_version: int
) -> ListItem:
    """Take a feature out of a list.

    Returns:
        What was taken out, to be put back by `add_item`.

    Raises:
        NotFound: there is no such list.
        Forbidden: it is somebody else's.
        ListConflict: the feature's note was changed since `read_version`, or the feature was taken out already.
    """
    current, item = await _taken_item(session, public_id, actor, sae, feature)
    if item.note and read_version not in range(item.note_version, current.version + 1):
        raise ListConflict("The note on this feature changed since you opened the list: read it first.", current, item)
    await queries.bump_version(session, current.id)
    await queries.delete_item(session, current.id, item)
    return item


def _found(found: ListView | None) -> ListView:
    if found is None:
        raise NotFound("There is no list at this address: it was deleted, or the link is cut. All lists are at /lists.")
    return found


async def _taken(session: AsyncSession, public_id: str, actor: Actor) -> ListView:
    """The list, which until the transaction ends nobody else can change.

    Raises:
        NotFound: there is no such list.
        Forbidden: it is not one that the actor may change.
    """
    current = _found(await get_list(session, public_id, for_change=True))
    actor.check_change(current.owner_id, "This list", current.author)
    return current


async def _taken_item(
    session: AsyncSession, public_id: str, actor: Actor, sae: str, feature: int
) -> tuple[ListView, ListItem]:
    current = await _taken(session, public_id, actor)
    item = await queries.find_item(session, current.id, sae, feature)
    if item is None:
        raise ListConflict("This feature was taken out of the list since you opened it.", current)
    return current, item


async def _holds(session: AsyncSession, kept: ListView, text: ListText, rows: list[tuple[int, int, str]]) -> bool:
    """True if the list is already what is given."""
    items = await queries.list_items(session, kept.id)
    return (kept.name, kept.description, [(item.sae_id, item.feature, item.note) for item in items]) == (
        text.name,
        text.description,
        rows,
    )


def _check_version(current: ListView, expected: int) -> None:
    if expected != current.version:
        raise ListConflict(
            f"The list is at version {current.version} by now, not {expected}: read it again and repeat the change.",
            current,
        )


def _tidy(text: ListText) -> ListText:
    """`text` without white space around it and with Unix line ends, if a list can hold it."""
    name, description = one_line(text.name), trim(unix_lines(text.description))
    if not name:
        raise Unprocessable("A list needs a name.")
    if len(name) > MAX_NAME:
        raise Unprocessable(f"The name of a list may have {MAX_NAME} characters; this one has {len(name):,}.")
    if len(description) > MAX_DESCRIPTION:
        raise Unprocessable(
            f"A description may have {MAX_DESCRIPTION:,} characters; this one has {len(description):,}."
        )
    if not storable(name) or not storable(description):
        raise Unprocessable("A list cannot hold NUL or broken characters: remove them.")
    return replace(text, name=name, description=description)


def _tidy_note(note: str) -> str:
    note = trim(unix_lines(note))
    if len(note) > MAX_NOTE:
        raise Unprocessable(f"A note may have {MAX_NOTE} characters; this one has {len(note):,}.")
    if not storable(note):
        raise Unprocessable("A note cannot hold NUL or broken characters: remove them.")
    return note


async def _rows(session: AsyncSession, items: Sequence[NewItem]) -> list[tuple[int, int, str]]:
    """`items` as the table has them: SAE's id, feature, note."""
    if len(items) > MAX_ITEMS:
        raise Unprocessable(f"A list holds at most {MAX_ITEMS:,} features; these are {len(items):,}.")
    known = await sae_sizes(session, {item.sae for item in items})
    rows: dict[tuple[int, int], str] = {}
    for item in items:
        if item.sae not in known:
            raise Unprocessable(f"There is no SAE “{item.sae[:80]}”. The first page and /api/v1/saes list all SAEs.")
        sae_id, size = known[item.sae]
        if item.feature not in range(size):
            raise Unprocessable(f"{item.sae} has no feature {item.feature}: its features are numbered 0 to {size - 1}.")
        if (sae_id, item.feature) in rows:
            raise Unprocessable(f"Feature {item.feature} of {item.sae} is given twice: a list holds it once.")
        rows[sae_id, item.feature] = _tidy_note(item.note)
    return [(sae_id, feature, note) for (sae_id, feature), note in rows.items()]
