"""Text sets: what a set of texts must be, how it is split, and what is counted in it."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import Conflict, NotFound
from app.queries import text_sets as queries
from app.queries.text_sets import Counts, NewTextSet, Split, TextItem, TextSetView
from app.services.actors import Actor, ensure_person

_SHARES: tuple[tuple[int, Split], ...] = ((60, "train"), (80, "calibration"), (100, "test"))


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What is said of a set, beside its texts."""

    name: str
    description: str = ""
    source: str = ""
    licence: str = ""
    url: str = ""
    offensive: bool = False


def split_of(key: str) -> Split:
    """Return the part that a text belongs to: 60 % train, 20 % calibration, 20 % test, by SHA-256 of its words.

    Case and white space do not count, so that the same words are in one part in every set, now and later.
    """
    words = " ".join(key.casefold().split())
    percent = int.from_bytes(hashlib.sha256(words.encode()).digest()[:8]) * 100 >> 64
    return next(split for below, split in _SHARES if percent < below)


def split_by_hash(items: Iterable[TextItem]) -> list[TextItem]:
    """Give every text its part; texts of one pair go together."""
    return [replace(item, split=split_of(item.text if item.pair is None else item.pair)) for item in items]


def count_texts(items: Sequence[TextItem]) -> Counts:
    """Count what a set has."""
    words = Counter(" ".join(item.text.casefold().split()) for item in items)
    return Counts(
        texts=len(items),
        labels=dict(Counter(item.label for item in items if item.label is not None)),
        groups=dict(Counter(item.group for item in items if item.group is not None)),
        splits=dict(Counter(item.split for item in items)),
        pairs=len({item.pair for item in items if item.pair is not None}),
        chats=sum(item.chat is not None for item in items),
        scores=sum(item.score is not None for item in items),
        duplicates=len(items) - len(words),
    )


def hash_texts(items: Sequence[TextItem]) -> str:
    """Return the SHA-256 of a set's texts with all that belongs to them, in order."""
    hashed = hashlib.sha256()
    for item in items:
        said = [item.text, item.label, item.group, item.pair, item.score, item.chat, item.split, dict(item.fields)]
        hashed.update(json.dumps(said, ensure_ascii=False, sort_keys=True).encode())
    return hashed.hexdigest()


async def find_text_set(session: AsyncSession, name: str) -> TextSetView:
    """Return a text set.

    Raises:
        NotFound: there is none of this name.
    """
    found = await queries.get_text_set(session, name)
    if found is None:
        raise NotFound(f"There is no text set named “{name[:100]}”. GET /api/v1/textsets lists those that there are.")
    return found


async def create_text_set(
    session: AsyncSession, about: About, items: Sequence[TextItem], *, actor: Actor
) -> TextSetView:
    """Store a set whose texts know their parts.

    Raises:
        Conflict: there is a set of this name.
    """
    new = NewTextSet(
        name=about.name,
        description=about.description,
        source=about.source,
        licence=about.licence,
        url=about.url,
        offensive=about.offensive,
        hash=hash_texts(items),
        counts=count_texts(items),
        owner_id=await ensure_person(session, actor),
    )
    if await queries.add_text_set(session, new, items) is None:
        raise Conflict(f"there is a text set named {about.name!r} already; choose another name, or delete it")
    stored = await queries.get_text_set(session, about.name)
    assert stored is not None  # stored in this transaction
    return stored
