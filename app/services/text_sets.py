"""Text sets: what a set of texts must be, how it is split, and what is counted in it."""

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import Conflict, NotFound, Unprocessable
from app.queries import text_sets as queries
from app.queries.deletions import leave_folders
from app.queries.sql.pg_safe import storable
from app.queries.text_readings import readings_of_set
from app.queries.text_sets import SPLITS, Counts, NewTextSet, Split, TextItem, TextSetView
from app.services.actors import Actor, ensure_person
from app.services.deletion import refuse_runs
from app.services.text_set_about import About

MAX_NAME = 60
MAX_COLUMN = 200
MAX_DESCRIPTION = 2000
MAX_ABOUT = 500
_SHARES: tuple[tuple[int, Split], ...] = ((60, "train"), (80, "calibration"), (100, "test"))


def check_about(about: About) -> None:
    """Refuse a name that cannot be part of an address, and texts that are too long.

    Raises:
        Unprocessable: the message says what can be.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,59}", about.name) or about.name == "new":
        raise Unprocessable(
            f"“{about.name[:60]}” cannot be the name of a text set: use 1 to 60 small letters, digits and hyphens."
        )
    for field, most in (
        ("description", MAX_DESCRIPTION),
        ("source", MAX_ABOUT),
        ("licence", MAX_ABOUT),
        ("url", MAX_ABOUT),
    ):
        text = getattr(about, field)
        if len(text) > most or not storable(text):
            raise Unprocessable(f"The {field} has at most {most:,} characters, and none that cannot be stored.")
    if about.url and not re.match(r"https?://", about.url):
        raise Unprocessable("The address begins with http:// or https://.")


def split_of(key: str) -> Split:
    """Return the part that a text belongs to: 60 % train, 20 % calibration, 20 % test, by SHA-256 of its words.

    Case and white space do not count, so that the same words are in one part in every set, now and later.
    """
    percent = int.from_bytes(hashlib.sha256(_words(key).encode(errors="surrogatepass")).digest()[:8]) * 100 >> 64
    return next(split for below, split in _SHARES if percent < below)


def _words(text: str) -> str:
    return " ".join(text.casefold().split())


def split_by_hash(items: Iterable[TextItem]) -> list[TextItem]:
    """Give every text its part; texts of one pair go together."""
    return [replace(item, split=split_of(item.text if item.pair is None else item.pair)) for item in items]


def count_texts(items: Sequence[TextItem]) -> Counts:
    """Count what a set has."""
    parts: dict[str, set[Split]] = defaultdict(set)
    for item in items:
        parts[_words(item.text)].add(item.split)
    return Counts(
        texts=len(items),
        labels=dict(Counter(item.label for item in items if item.label is not None)),
        groups=dict(Counter(item.group for item in items if item.group is not None)),
        splits=dict(Counter(item.split for item in items)),
        pairs=len({item.pair for item in items if item.pair is not None}),
        chats=sum(item.chat is not None for item in items),
        scores=sum(item.score is not None for item in items),
        duplicates=len(items) - len(parts),
        shared=sum(len(splits) > 1 for splits in parts.values()),
    )


def remarks(counts: Counts) -> list[str]:
    """Return what somebody should know before a set is used, as sentences."""
    said = []
    if counts.shared:
        wordings = "1 wording stands" if counts.shared == 1 else f"{counts.shared:,} wordings stand"
        said.append(f"{wordings} in more than one split: what is measured on test is not all unseen.")
    elif counts.duplicates:
        texts = "1 text repeats" if counts.duplicates == 1 else f"{counts.duplicates:,} texts repeat"
        said.append(f"{texts} the words of another, in the same split.")
    if empty := [split for split in SPLITS if split not in counts.splits]:
        said.append(f"No text is in {' or '.join(empty)}: monitors and comparisons need texts in every split.")
    if len(counts.labels) == 1 and not counts.pairs:
        said.append("All labelled texts have the same label: compare them with those of another set.")
    return said


def hash_texts(items: Sequence[TextItem]) -> str:
    """Return the SHA-256 of a set's texts with all that belongs to them, in order."""
    hashed = hashlib.sha256()
    for item in items:
        said = [item.text, item.label, item.group, item.pair, item.score, item.chat, item.split, dict(item.fields)]
        hashed.update(json.dumps(said, ensure_ascii=False, sort_keys=True).encode(errors="surrogatepass"))
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
        Unprocessable: the name or what is said of the set cannot be.
        Conflict: there is a set of this name.
    """
    check_about(about)
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


async def delete_text_set(session: AsyncSession, name: str, *, actor: Actor) -> None:
    """Delete a set with its texts, and with what SAEs made of them.

    Raises:
        NotFound: there is none of this name.
        Forbidden: the set is somebody else's, and the actor is not a reviewer.
        InUse: a run under way uses it.
    """
    found = await find_text_set(session, name)
    actor.check_change(found.owner_id, "This text set", found.owner)
    parts = [f"{name}:{label}" for label in found.counts.labels]
    await refuse_runs(session, f"the text set {name}", (), (name, *parts))
    await leave_folders(session, [f"readings/{reading.key}" for reading in await readings_of_set(session, found.id)])
    await queries.delete_text_set(session, found.id)


def text_set_json(view: TextSetView) -> dict[str, Any]:
    """Return a set as the API and the command line give it."""
    return {
        "name": view.name,
        "description": view.description,
        "texts": view.counts.texts,
        "labels": dict(view.counts.labels),
        "groups": dict(view.counts.groups),
        "splits": dict(view.counts.splits),
        "pairs": view.counts.pairs,
        "chats": view.counts.chats,
        "scores": view.counts.scores,
        "duplicates": view.counts.duplicates,
        "shared_between_splits": view.counts.shared,
        "licence": view.licence,
        "source": view.source,
        "url": view.url,
        "offensive": view.offensive,
        "sha256": view.hash,
        "owner": view.owner,
        "created_at": view.created_at.isoformat(),
    }
