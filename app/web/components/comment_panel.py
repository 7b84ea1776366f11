"""Comments on a feature in threads, as its page shows them, and as the API writes them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from markupsafe import Markup, escape
from pydantic import BaseModel, Field
from sqlalchemy.ext.asyncio import AsyncSession

from app.queries.comments import CommentView, list_comments
from app.services.actors import Actor, Role


class CommentOut(BaseModel):
    """A comment; of a deleted one the text is empty."""

    id: int
    set: str
    feature: int
    answers: Annotated[int | None, Field(description="The comment that it answers.")]
    author: str
    text: str
    mentions: Annotated[list[str], Field(description="The people whom its text names with an @.")]
    created_at: datetime
    deleted_at: datetime | None

    @classmethod
    def of(cls, view: CommentView) -> "CommentOut":
        """Return the comment of a query's view."""
        return cls(
            id=view.id,
            set=view.label_set,
            feature=view.feature,
            answers=view.answers,
            author=view.author,
            text=view.text,
            mentions=list(view.mentions),
            created_at=view.created_at,
            deleted_at=view.deleted_at,
        )


@dataclass(frozen=True, slots=True)
class ShownComment:
    """A comment with its answers; `may_delete` is about its reader."""

    view: CommentView
    may_delete: bool
    answers: Sequence["ShownComment"] = ()

    @property
    def html(self) -> Markup:
        """Return its text with the people it names marked."""
        text = escape(self.view.text)
        if not self.view.mentions:
            return text
        names = sorted((re.escape(str(escape(name))) for name in self.view.mentions), key=len, reverse=True)
        named = re.compile(rf"@(?:{'|'.join(names)})", re.IGNORECASE)
        return Markup(named.sub(lambda match: f"<b>{match[0]}</b>", str(text)))  # noqa: S704 - escaped above


@dataclass(frozen=True, slots=True)
class CommentPanel:
    """The threads of a feature. `error` says why `text` was not written, as an answer to `answers` or not."""

    threads: Sequence[ShownComment]
    may_write: bool
    text: str = ""
    answers: int | None = None
    error: str = ""

    @property
    def count(self) -> int:
        """Return the number of comments that are not deleted."""
        return sum(comment.view.deleted_at is None for thread in self.threads for comment in (thread, *thread.answers))


async def comment_panel(
    session: AsyncSession,
    sae_id: int,
    feature: int,
    actor: Actor,
    *,
    text: str = "",
    answers: int | None = None,
    error: str = "",
    has_any: bool = True,
) -> CommentPanel:
    """Return the threads that `actor` may see. A deleted comment is shown where answers to it are left.

    With `has_any` false, there is no comment.
    """
    views = await list_comments(session, sae_id, feature, reader=actor.reader) if has_any else []
    answered: dict[int, list[ShownComment]] = {}
    for view in views:
        if view.answers is not None and view.deleted_at is None:
            answered.setdefault(view.answers, []).append(_shown(view, actor))
    threads = [
        _shown(view, actor, answered.get(view.id, ()))
        for view in views
        if view.answers is None and (view.deleted_at is None or view.id in answered)
    ]
    return CommentPanel(threads, actor.role >= Role.labeller, text, answers, error)


def _shown(view: CommentView, actor: Actor, answers: Sequence[ShownComment] = ()) -> ShownComment:
    may_delete = view.deleted_at is None and (actor.owns(view.person_id) or actor.role >= Role.admin)
    return ShownComment(view, may_delete, answers)
