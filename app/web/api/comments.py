"""Comments on features, and the activity feed."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field

from app.errors import NotFound
from app.problems import documented
from app.queries.activity import ActivityView, list_activity
from app.queries.comments import list_comments
from app.queries.label_sets import DEFAULT, get_set
from app.queries.sql.pg_safe import MAX_INTEGER
from app.services.comments import add_comment, delete_comment
from app.services.monitors import find_monitor
from app.services.saes import find_sae
from app.web.components.comment_panel import CommentOut
from app.web.dependencies import Actor, FeatureIndex, Sae, Session

router = APIRouter(prefix="/api/v1", tags=["Labels"])

Before = Annotated[int | None, Query(ge=1, le=2**63 - 1, description="The last id of the previous page.")]


class CommentList(BaseModel):
    """The comments on a feature, in the order they were written."""

    comments: list[CommentOut]


class CommentIn(BaseModel):
    """A comment to write."""

    model_config = ConfigDict(extra="forbid")

    text: Annotated[str, Field(examples=["Is this also about boats, @grace?"])]
    answers: Annotated[int | None, Field(description="The comment that it answers.")] = None
    set: Annotated[str, Field(description="The set in which it is said.")] = DEFAULT


class ActOut(BaseModel):
    """Who did what; `subject` is the id of the label, comment, decision or alert. Only acts on labels have a set."""

    id: int
    at: datetime
    person: Annotated[str | None, Field(description="Null of alerts, which are nobody's act.")]
    act: Annotated[str, Field(examples=["label saved", "decision made", "comment added", "alert raised"])]
    sae: Annotated[str | None, Field(description="Null of a monitor whose SAE was deleted.")]
    set: str | None
    monitor: str | None
    alerts: Annotated[int | None, Field(description="Of a monitor, that this row tells of.")]
    feature: int | None
    subject: int | None

    @classmethod
    def of(cls, view: ActivityView) -> "ActOut":
        """Return the act of a query's view."""
        return cls(
            id=view.id,
            at=view.at,
            person=view.person,
            act=view.act,
            sae=view.sae,
            set=view.label_set,
            monitor=view.monitor,
            alerts=view.alerts,
            feature=view.feature,
            subject=view.subject,
        )


class ActivityPage(BaseModel):
    """Acts, newest first. `next_before` is the `before` of the next page, null on the last one."""

    activity: list[ActOut]
    next_before: int | None


@router.get("/saes/{sae}/features/{index}/comments", summary="Comments on a feature", responses=documented(404))
async def feature_comments(sae: Sae, index: FeatureIndex, session: Session, actor: Actor) -> CommentList:
    """Return the comments on a feature. In a blind set others' are hidden from who has not submitted a label."""
    views = await list_comments(session, sae.id, index, reader=actor.reader)
    return CommentList(comments=[CommentOut.of(view) for view in views])


@router.post(
    "/saes/{sae}/features/{index}/comments",
    summary="Comment on a feature",
    status_code=201,
    responses=documented(404),
)
async def post_comment(sae: Sae, index: FeatureIndex, comment: CommentIn, session: Session, actor: Actor) -> CommentOut:
    """Write a comment, or an answer to one: an answer to an answer joins its thread.

    A name after an @ mentions a person, who finds it first in their activity; it is looked up when it is written.
    """
    written = await add_comment(
        session, sae, index, actor=actor, text=comment.text, answers=comment.answers, label_set=comment.set
    )
    return CommentOut.of(written)


@router.delete("/comments/{id}", summary="Delete a comment", responses=documented(404))
async def remove_comment(id: Annotated[int, Path(ge=1, le=MAX_INTEGER)], session: Session, actor: Actor) -> CommentOut:
    """Delete a comment of one's own, or as an admin any: its place in the thread stays, and its text goes."""
    return CommentOut.of(await delete_comment(session, id, actor=actor))


@router.get("/activity", summary="What people did", responses=documented(404))
async def activity(
    session: Session,
    actor: Actor,
    sae: Annotated[str | None, Query(description="Slug of an SAE.")] = None,
    set: Annotated[int | None, Query(ge=1, le=MAX_INTEGER, description="Id of a label set.")] = None,
    monitor: Annotated[str | None, Query(description="Name or number of a monitor.")] = None,
    mentions: Annotated[bool, Query(description="Only comments that mention you.")] = False,
    before: Before = None,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> ActivityPage:
    """Return what people did and what monitors found, newest first.

    Others' drafts, and what a blind set hides, are left out.
    """
    sae_id = None if sae is None else (await find_sae(session, sae)).id
    if set is not None and await get_set(session, set) is None:
        raise NotFound(f"There is no label set {set}.")
    monitor_id = None if monitor is None else (await find_monitor(session, monitor)).id
    found = await list_activity(
        session,
        reader=actor.reader,
        sae_id=sae_id,
        label_set_id=set,
        monitor_id=monitor_id,
        mentions=mentions,
        before=before,
        limit=limit + 1,
    )
    shown = found[:limit]
    return ActivityPage(
        activity=[ActOut.of(view) for view in shown], next_before=shown[-1].id if len(found) > limit else None
    )
