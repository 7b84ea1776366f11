"""Comments on a feature in a label set, in threads of one level."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ARRAY, Text, bindparam, func, insert, literal_column, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from app.queries.sql.pg_safe import is_id
from app.queries.sql.visibility import Reader, visible_of
from app.tables import Comment, LabelSet, Person


@dataclass(frozen=True, slots=True)
class CommentView:
    """A comment; `answers` is the id of the comment that it answers. Of a deleted one the text is empty."""

    id: int
    sae_id: int
    label_set_id: int
    label_set: str
    feature: int
    answers: int | None
    person_id: int
    author: str
    text: str
    mentions: tuple[str, ...]
    created_at: datetime
    deleted_at: datetime | None


_mentioned = (
    select(func.coalesce(func.array_agg(Person.name), literal_column("'{}'::varchar[]")))
    .where(Person.id == func.any(Comment.mentions))
    .correlate(Comment)
    .scalar_subquery()
)
_COMMENTS = (
    select(Comment, LabelSet.sae_id, LabelSet.name, Person.name.label("author"), _mentioned.label("mentioned"))
    .join(LabelSet, LabelSet.id == Comment.label_set_id)
    .join(Person, Person.id == Comment.person_id)
    .execution_options(populate_existing=True)
)


async def list_comments(session: AsyncSession, sae_id: int, feature: int, *, reader: Reader) -> list[CommentView]:
    """Return the comments on a feature that `reader` may see, in the order they were written."""
    rows = await session.execute(_OF_FEATURE, {"sae": sae_id, "feature": feature, **reader.parameters})
    return [_view(*row) for row in rows]


_OF_FEATURE = _COMMENTS.where(
    LabelSet.sae_id == bindparam("sae"), Comment.feature == bindparam("feature"), visible_of(Comment)
).order_by(Comment.id)


async def get_comment(session: AsyncSession, comment_id: int, *, reader: Reader) -> CommentView | None:
    """Return a comment, None if there is none that `reader` may see."""
    if not is_id(comment_id):
        return None
    found = _COMMENTS.where(Comment.id == comment_id, visible_of(Comment))
    row = (await session.execute(found, reader.parameters)).one_or_none()
    return None if row is None else _view(*row)


async def insert_comment(
    session: AsyncSession,
    *,
    label_set_id: int,
    feature: int,
    person_id: int,
    answers: int | None,
    text: str,
    mentions: Sequence[int],
) -> int:
    """Write a comment, and return its id."""
    row = {"label_set_id": label_set_id, "feature": feature, "person_id": person_id, "answers": answers}
    new = insert(Comment).values(**row, text=text, mentions=list(mentions)).returning(Comment.id)
    return (await session.execute(new)).scalar_one()


async def delete_comment(session: AsyncSession, comment_id: int) -> None:
    """Mark a comment as deleted, and forget its text."""
    gone = {"deleted_at": func.now(), "text": "", "mentions": []}
    await session.execute(update(Comment).where(Comment.id == comment_id, Comment.deleted_at.is_(None)).values(gone))


async def people_named_at(session: AsyncSession, tails: Sequence[str]) -> list[tuple[int, int, str]]:
    """Return who may be meant where a text goes on with each of `tails`: its place, the person's id and name.

    The name begins the tail, whatever its case; longer names come first, and accounts before names without one.
    """
    tail = (
        func.unnest(bindparam("tails", type_=ARRAY(Text)))
        .table_valued("tail", with_ordinality="place")
        .render_derived()
    )
    found = (
        select(tail.c.place, Person.id, Person.name)
        .select_from(tail.join(Person, func.starts_with(func.lower(tail.c.tail), func.lower(Person.name))))
        .where(Person.disabled_at.is_(None), Person.name != "")
        .order_by(tail.c.place, func.length(Person.name).desc(), Person.is_account.desc(), Person.id)
    )
    rows = await session.execute(found, {"tails": list(tails)})
    return [(place - 1, number, name) for place, number, name in rows]


def _view(row: Comment, sae_id: int, label_set: str, author: str, mentioned: list[str]) -> CommentView:
    return CommentView(
        id=row.id,
        sae_id=sae_id,
        label_set_id=row.label_set_id,
        label_set=label_set,
        feature=row.feature,
        answers=row.answers,
        person_id=row.person_id,
        author=author,
        text=row.text,
        mentions=tuple(sorted(mentioned)),
        created_at=row.created_at,
        deleted_at=row.deleted_at,
    )
