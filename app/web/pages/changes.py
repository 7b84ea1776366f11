"""Events of what others do on a feature, in a label set or to a monitor, and of its alerts, for open pages.

Events of `…/events` (server-sent): `changed`, whose data are the ids of the acts; `missed`, after the site lost its
connection to the database, or where there were too many. Both say only that the page is to ask again. It does not where
it did all of these acts itself: a rendered answer names its acts (`ACTS_HEADER` of `app/web/rendering.py`). Of a
feature, an event's id is that of its last act, from which a browser that connects again goes on.

Of a blind set, who has not submitted their own label of the feature is told nothing, and so learns neither that nor
when somebody else labelled it.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Path, Query, Request
from fastapi.sse import EventSourceResponse, ServerSentEvent
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.db import transaction
from app.errors import NotFound, Unavailable
from app.queries.activity import acts_after
from app.queries.label_sets import get_set
from app.queries.monitors import count_alerts_after
from app.queries.sql.pg_safe import MAX_INTEGER
from app.queries.sql.visibility import Reader, may_see
from app.services.changes import Change, Changes, Subscription
from app.services.monitors import find_monitor
from app.services.saes import find_sae
from app.web.dependencies import Actor

router = APIRouter()

_LASTS = 900.0
"""Seconds until a stream ends, so that the browser connects again and its reader's rights are looked at again."""

MAX_ACT = 2**63 - 1

After = Annotated[int, Query(ge=0, le=MAX_ACT, description="The last act that the page shows.")]
LastEvent = Annotated[str, Header(alias="Last-Event-ID")]


async def _of_feature(
    request: Request,
    actor: Actor,
    sae: Annotated[str, Path()],
    index: Annotated[int, Path(ge=0, le=MAX_INTEGER)],
    after: After = 0,
    last_event_id: LastEvent = "",
) -> AsyncIterator[tuple[list[int], Subscription]]:
    """Yield the acts on a feature that the page does not know, and a subscription to the next ones.

    A refusal is possible only before the stream starts.
    """
    known = int(last_event_id) if re.fullmatch("[0-9]{1,20}", last_event_id) else after
    changes: Changes = request.app.state.changes
    async with transaction(request.app.state.sessionmaker) as session:
        found = await find_sae(session, sae)
    if index >= found.d_sae:
        raise NotFound(f"{found.slug} has no feature {index}: its features are numbered 0 to {found.d_sae - 1}.")

    def wants(change: Change) -> bool:
        return change.sae_id == found.id and change.feature in (index, None)  # None: of a set, or of many features

    with changes.subscribe(wants) as subscription:
        await changes.listening()
        async with transaction(request.app.state.sessionmaker) as session:
            new = await acts_after(session, min(known, MAX_ACT), found.id, index, reader=actor.reader)
        yield new, subscription


async def _of_set(request: Request, id: Annotated[int, Path(ge=1, le=MAX_INTEGER)]) -> AsyncIterator[Subscription]:
    """Yield a subscription to a label set that exists."""
    changes: Changes = request.app.state.changes
    async with transaction(request.app.state.sessionmaker) as session:
        if await get_set(session, id) is None:
            raise NotFound(f"There is no label set {id}.")
    with changes.subscribe(lambda change: change.label_set_id == id) as subscription:
        await changes.listening()
        yield subscription


async def _of_monitor(
    request: Request,
    id: Annotated[str, Path()],
    after: Annotated[int, Query(ge=0, le=MAX_ACT, description="The newest alert that the page knows.")] = 0,
) -> AsyncIterator[tuple[int, Subscription]]:
    """Yield how many alerts a monitor has that are newer than those of the page, and a subscription to it."""
    changes: Changes = request.app.state.changes
    async with transaction(request.app.state.sessionmaker) as session:
        found = await find_monitor(session, id)
    with changes.subscribe(lambda change: change.monitor_id == found.id) as subscription:
        await changes.listening()
        async with transaction(request.app.state.sessionmaker) as session:
            newer = await count_alerts_after(session, found.id, after)
        yield newer, subscription


@router.get("/saes/{sae}/features/{index}/events", response_class=EventSourceResponse)
async def feature_events(
    request: Request, followed: Annotated[tuple[list[int], Subscription], Depends(_of_feature)], actor: Actor
) -> AsyncIterator[ServerSentEvent]:
    """Send an event whenever somebody labels, decides or says something on a feature."""
    new, subscription = followed
    yield ServerSentEvent(comment="open", retry=2_000)
    if new:
        yield _event("changed", new, resumes=True)
    async for name, acts in _news(request.app.state.sessionmaker, subscription, actor.reader):
        yield _event(name, acts, resumes=True)


@router.get("/labelsets/{id}/events", response_class=EventSourceResponse)
async def set_events(
    subscription: Annotated[Subscription, Depends(_of_set)], actor: Actor
) -> AsyncIterator[ServerSentEvent]:
    """Send an event whenever somebody does something in a label set; of a blind one, to reviewers alone."""
    yield ServerSentEvent(comment="open", retry=2_000)
    async for name, acts in _news(None, subscription, actor.reader):
        yield _event(name, acts)


@router.get("/monitors/{id}/events", response_class=EventSourceResponse)
async def monitor_events(
    followed: Annotated[tuple[int, Subscription], Depends(_of_monitor)], actor: Actor
) -> AsyncIterator[ServerSentEvent]:
    """Send an event whenever a monitor alerts, or somebody does something to it."""
    newer, subscription = followed
    yield ServerSentEvent(comment="open", retry=2_000)
    if newer:
        yield ServerSentEvent(event="changed", raw_data="")
    async for name, acts in _news(None, subscription, actor.reader):
        yield _event(name, acts)


async def _news(
    sessions: async_sessionmaker[AsyncSession] | None, subscription: Subscription, reader: Reader
) -> AsyncIterator[tuple[str, list[int]]]:
    """Yield an event's name and acts for what is new and the reader may know; without `sessions`, no blind sets."""
    ends = asyncio.get_running_loop().time() + _LASTS
    while (left := ends - asyncio.get_running_loop().time()) > 0:
        try:
            changes, missed = await asyncio.wait_for(subscription.next(), left)
            known = [change for change in changes if await _may_know(sessions, change, reader)]
        except (TimeoutError, Unavailable):
            return  # the browser connects again
        if missed or known:
            yield "missed" if missed else "changed", [change.id for change in known]


def _event(name: str, acts: Sequence[int], *, resumes: bool = False) -> ServerSentEvent:
    """Return an event that names the acts, which are in order; one that `resumes` has the last one for its id."""
    last = str(acts[-1]) if acts and resumes else None
    return ServerSentEvent(event=name, id=last, raw_data=" ".join(map(str, acts)))


async def _may_know(sessions: async_sessionmaker[AsyncSession] | None, change: Change, reader: Reader) -> bool:
    if not change.withheld or reader.sees_all:
        return True
    if sessions is None or change.feature is None or change.label_set_id is None:
        return False
    async with transaction(sessions) as session:
        return await may_see(session, reader, change.label_set_id, change.feature)
