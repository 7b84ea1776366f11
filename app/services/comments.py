"""Rules of comments: limits, threads of one level, mentions, and who may delete."""

import re

from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import Forbidden, NotFound, Unprocessable
from app.queries import comments as queries
from app.queries.activity import Event, add_activity
from app.queries.comments import CommentView
from app.queries.label_sets import DEFAULT, ensure_set, find_set
from app.queries.saes import SaeDetail
from app.queries.sql.pg_safe import storable
from app.queries.sql.visibility import Reader
from app.services.actors import Actor, Role, ensure_person
from app.services.labels import MAX_NAME, tidy_name
from app.services.texts import trim, unix_lines

MAX_COMMENT = 2_000
MAX_MENTIONS = 20
_AT = re.compile(r"(?<!\w)@(?=\w)")


async def add_comment(
    session: AsyncSession,
    sae: SaeDetail,
    feature: int,
    *,
    actor: Actor,
    text: str,
    answers: int | None = None,
    label_set: str = DEFAULT,
) -> CommentView:
    """Write a comment on a feature in a set; an answer stands in the set of the comment that it answers.

    Raises:
        NotFound: the SAE has no such feature, or there is no such set, or no such comment that the actor may see.
        Unprocessable: the text is missing, too long, or holds what a comment cannot.
    """
    if feature not in range(sae.d_sae):
        raise NotFound(f"{sae.slug} has no feature {feature}: its features are numbered 0 to {sae.d_sae - 1}.")
    text = _tidy(text)
    person_id = await ensure_person(session, actor)
    if answers is not None:
        set_id, answers = await _thread(session, sae, feature, actor, answers)
    else:
        set_id = await _set_id(session, sae, tidy_name("label set", label_set))
    comment_id = await queries.insert_comment(
        session,
        label_set_id=set_id,
        feature=feature,
        person_id=person_id,
        answers=answers,
        text=text,
        mentions=await _mentioned(session, text),
    )
    await _record(session, "comment added", sae.id, set_id, feature, person_id, comment_id)
    return await _own(session, comment_id, person_id)


async def delete_comment(session: AsyncSession, comment_id: int, *, actor: Actor) -> CommentView:
    """Delete a comment: its place in the thread stays, and its text goes.

    Raises:
        NotFound: there is no such comment that the actor may see.
        Forbidden: it is another's, and the actor is no admin.
    """
    found = await queries.get_comment(session, comment_id, reader=actor.reader)
    if found is None:
        raise NotFound(f"There is no comment {comment_id}.")
    if not actor.owns(found.person_id) and actor.role < Role.admin:
        raise Forbidden("This comment is another person's: they or an admin can delete it.")
    person_id = await ensure_person(session, actor)
    if found.deleted_at is None:
        await queries.delete_comment(session, comment_id)
        await _record(
            session, "comment deleted", found.sae_id, found.label_set_id, found.feature, person_id, comment_id
        )
    gone = await queries.get_comment(session, comment_id, reader=actor.reader)
    assert gone is not None
    return gone


async def _thread(session: AsyncSession, sae: SaeDetail, feature: int, actor: Actor, answers: int) -> tuple[int, int]:
    """Return the set and the first comment of the thread that an answer belongs to."""
    found = await queries.get_comment(session, answers, reader=actor.reader)
    if found is None or (found.sae_id, found.feature) != (sae.id, feature):
        raise NotFound(f"There is no comment {answers} on this feature.")
    return found.label_set_id, found.answers or found.id


async def _set_id(session: AsyncSession, sae: SaeDetail, name: str) -> int:
    found = await ensure_set(session, sae.id) if name == DEFAULT else await find_set(session, sae.id, name)
    if found is None:
        raise NotFound(f"{sae.slug} has no label set “{name}”.")
    return found.id


async def _mentioned(session: AsyncSession, text: str) -> list[int]:
    """Return the ids of the people whose names follow an @, each once: the longest name that fits."""
    tails = [text[at.end() : at.end() + MAX_NAME + 1] for at in _AT.finditer(text)][:MAX_MENTIONS]
    found: dict[int, int] = {}
    for place, person_id, name in await queries.people_named_at(session, tails) if tails else []:
        follows = tails[place][len(name) : len(name) + 1]
        if place not in found and not (follows.isalnum() or follows == "_"):
            found[place] = person_id
    return list(dict.fromkeys(found.values()))


async def _record(
    session: AsyncSession, act: str, sae_id: int, set_id: int, feature: int, person_id: int, comment_id: int
) -> None:
    await add_activity(session, Event(person_id, act, sae_id, set_id, feature=feature, subject=comment_id))


async def _own(session: AsyncSession, comment_id: int, person_id: int) -> CommentView:
    written = await queries.get_comment(session, comment_id, reader=Reader(person_id))
    assert written is not None
    return written


def _tidy(text: str) -> str:
    text = trim(unix_lines(text))
    if not text:
        raise Unprocessable("A comment needs a text.")
    if len(text) > MAX_COMMENT:
        raise Unprocessable(f"A comment may have {MAX_COMMENT:,} characters; this one has {len(text):,}.")
    if not storable(text):
        raise Unprocessable("A comment cannot hold NUL or broken characters: remove them.")
    return text
