"""Events of what others do, over real HTTP: who is told, who is not, and what is not lost."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from app.db import transaction
from app.main import create_app
from app.queries.activity import Event, add_activity, latest_activity
from app.queries.feature_holdings import feature_holdings
from app.queries.label_sets import ensure_set
from app.queries.labels import LabelText
from app.queries.saes import SaeDetail
from app.queries.sql.visibility import Reader
from app.services.actors import Actor, Role
from app.services.adjudication import vote
from app.services.labels import save_label
from app.services.monitors import change_monitor, delete_monitor, find_monitor
from app.settings import Settings
from tests.e2e.conftest import serving
from tests.factories import Synthetic
from tests.labelling import make_set
from tests.monitors import add_alerts, add_monitor
from tests.people import SignedIn, sign_in

Sessions = async_sessionmaker[AsyncSession]
EVERYTHING = Reader(sees_all=True)


class Events:
    """The events of one open page, as they come."""

    def __init__(self, lines: AsyncIterator[str]) -> None:
        self.lines = lines

    async def next(self) -> dict[str, str]:
        """Wait for the next event; comments are none."""
        event: dict[str, str] = {}
        async with asyncio.timeout(30):
            async for line in self.lines:
                if not line and "event" in event:
                    return event
                if line.startswith((":", "retry")) or not line:
                    continue
                name, _, value = line.partition(":")
                event[name] = value.strip()
        raise AssertionError("the stream ended")


@asynccontextmanager
async def page(url: str, **headers: str) -> AsyncIterator[Events]:
    """Open a page's stream; returns when it is subscribed."""
    async with (
        httpx.AsyncClient(timeout=60) as client,
        client.stream("GET", url, headers=headers) as response,
    ):
        assert response.status_code == 200, await response.aread()
        lines = response.aiter_lines()
        assert (await anext(lines)).startswith(": open")
        yield Events(lines)


@pytest.fixture
def app(settings: Settings) -> FastAPI:
    return create_app(settings)


async def put(
    sessions: Sessions,
    sae: SaeDetail,
    feature: int,
    by: Actor,
    *,
    status: str = "submitted",
    label_set: str = "default",
) -> int:
    """Save a label, and return the id of the act."""
    async with transaction(sessions) as session:
        await save_label(
            session,
            sae,
            feature,
            actor=by,
            text=LabelText("rivers", status=status),
            expected_version=None,
            label_set=label_set,
        )
        return await latest_activity(session, sae.id, feature, reader=EVERYTHING)


async def test_an_open_page_learns_what_others_do_and_nothing_is_lost(
    app: FastAPI, made: Synthetic, sessionmaker: Sessions
) -> None:
    base = f"/saes/{made.sae.slug}/features"
    with serving(app) as address:
        async with page(f"{address}{base}/5/events?after=0") as events:
            await put(sessionmaker, made.sae, 6, Actor("grace"))  # another feature
            await put(sessionmaker, made.sae, 5, Actor("eve"), status="draft")  # which only eve sees
            first = await put(sessionmaker, made.sae, 5, Actor("grace"))
            assert await events.next() == {"event": "changed", "id": str(first), "data": str(first)}

            async with transaction(sessionmaker) as session:
                await session.execute(
                    text(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE '%changes'"
                    )
                )
            assert (await events.next())["event"] == "missed"
            second = await put(sessionmaker, made.sae, 5, Actor("mary"))
            assert (await events.next())["id"] == str(second)

        async with page(f"{address}{base}/5/events?after=0", **{"Last-Event-ID": str(first)}) as events:
            assert (await events.next())["id"] == str(second)
        async with page(f"{address}{base}/5/events?after={second}") as events:
            third = await put(sessionmaker, made.sae, 5, Actor("noor"))
            assert (await events.next())["id"] == str(third)
        for known in (first, 0):  # what a page did itself among these does not hide the others
            async with page(f"{address}{base}/5/events?after={known}") as events:
                acts = [act for act in (first, second, third) if act > known]
                assert (await events.next())["data"] == " ".join(map(str, acts))
        async with page(f"{address}{base}/5/events", **{"Last-Event-ID": "9" * 20}) as events:
            fourth = await put(sessionmaker, made.sae, 5, Actor("zoe"))
            assert (await events.next())["data"] == str(fourth)
        async with page(f"{address}{base}/5/events?after={fourth}", **{"Last-Event-ID": "9" * 5_000}) as events:
            fifth = await put(sessionmaker, made.sae, 5, Actor("lea"))
            assert (await events.next())["data"] == str(fifth)
        async with transaction(sessionmaker) as session:  # nothing on one feature: labels of many may have come
            last = (await session.execute(text("SELECT * FROM activity WHERE id = :id"), {"id": fifth})).one()
            whole = Event(last.person_id, "labels imported", last.sae_id, last.label_set_id)
            sixth = await add_activity(session, whole)
            assert await latest_activity(session, made.sae.id, 7, reader=EVERYTHING) == sixth
            assert (await feature_holdings(session, made.sae.id, 7)).activity
        async with page(f"{address}{base}/7/events") as events:
            assert (await events.next())["data"] == str(sixth)

        async with httpx.AsyncClient() as client:
            assert (await client.get(f"{address}{base}/24/events")).status_code == 404
            app.state.changes._limit = 0
            refused = await client.get(f"{address}{base}/5/events")
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "60")
            shown = await client.get(f"{address}{base}/5/labels", headers={"HX-Request": "true"})
            assert "grace" in shown.text
            assert "eve" not in shown.text


async def test_an_open_page_learns_of_alerts_and_of_what_people_do_with_the_monitor(
    app: FastAPI, made: Synthetic, sessionmaker: Sessions
) -> None:
    async with transaction(sessionmaker) as session:
        for name in ("kings", "queens"):
            await add_monitor(session, made.sae, name=name)
    with serving(app) as address:
        events_of = f"{address}/monitors/kings/events"
        async with page(f"{events_of}?after=0") as events:
            for name, number in (("queens", 2), ("kings", 1), ("kings", 2)):  # of which the last two join no new act
                async with transaction(sessionmaker) as session:
                    ids = await add_alerts(session, name, number=number)
                if name == "kings":
                    assert (await events.next())["event"] == "changed"
            async with transaction(sessionmaker) as session:
                monitor = await find_monitor(session, "kings")
                await change_monitor(session, monitor, actor=Actor("ada"), state="paused")
            assert (await events.next())["event"] == "changed"
        async with page(f"{events_of}?after={ids[0]}") as events:  # which is one behind
            assert await events.next() == {"event": "changed", "data": ""}
        async with page(f"{events_of}?after={ids[-1]}") as events:
            async with transaction(sessionmaker) as session:
                await delete_monitor(session, await find_monitor(session, "kings"), actor=Actor("ada"))
            # An act's id would be taken for that of an alert by a page that connects again.
            assert await events.next() == {"event": "changed", "data": str(await newest_act(sessionmaker))}
        async with httpx.AsyncClient() as client:
            assert (await client.get(events_of)).status_code == 404


async def newest_act(sessions: Sessions) -> int:
    async with transaction(sessions) as session:
        return await session.scalar(text("SELECT max(id) FROM activity")) or 0


async def test_of_a_blind_set_nobody_learns_that_others_labelled_before_their_own_is_in(
    app: FastAPI, made: Synthetic, engine: AsyncEngine, sessionmaker: Sessions
) -> None:
    people: dict[str, SignedIn] = {
        name: await sign_in(engine, name, role)
        for name, role in (("boss", Role.reviewer), ("ann", Role.labeller), ("ben", Role.labeller))
    }
    async with transaction(sessionmaker) as session:
        found = await ensure_set(session, made.sae.id, "blind")
        await session.execute(text("UPDATE label_set SET blind = true WHERE id = :id"), {"id": found.id})
    address_of = f"/saes/{made.sae.slug}/features/5/events?after=0"
    ann, ben = people["ann"], people["ben"]
    with serving(app) as address:
        async with httpx.AsyncClient() as client:
            assert (await client.get(f"{address}{address_of}")).status_code in (303, 401)
        async with (
            page(f"{address}{address_of}", **people["boss"].headers) as boss,
            page(f"{address}{address_of}", **ann.headers) as anns,
            page(f"{address}/labelsets/{found.id}/events", **ann.headers) as of_set,
        ):
            hidden = await put(sessionmaker, made.sae, 5, ben.actor, label_set="blind")
            assert (await boss.next())["id"] == str(hidden)
            own = await put(sessionmaker, made.sae, 5, ann.actor, label_set="blind")
            assert (await anns.next())["id"] == str(own)  # and ben's came before
            async with transaction(sessionmaker) as session:
                await session.execute(text("UPDATE label_set SET blind = false WHERE id = :id"), {"id": found.id})
            opened = await put(sessionmaker, made.sae, 7, ben.actor, label_set="blind")
            assert (await of_set.next())["data"] == str(opened)
        async with page(f"{address}{address_of}", **ann.headers) as again:
            assert int((await again.next())["id"]) >= own


async def test_a_page_that_is_opened_late_is_not_told_of_what_a_blind_set_hides(
    made: Synthetic, engine: AsyncEngine, sessionmaker: Sessions
) -> None:
    ann, ben = await sign_in(engine, "ann"), await sign_in(engine, "ben")
    async with transaction(sessionmaker) as session:
        found = await ensure_set(session, made.sae.id, "blind")
        await session.execute(text("UPDATE label_set SET blind = true WHERE id = :id"), {"id": found.id})
    act = await put(sessionmaker, made.sae, 5, ben.actor, label_set="blind")
    async with transaction(sessionmaker) as session:
        assert await latest_activity(session, made.sae.id, 5, reader=ann.actor.reader) == 0
        assert await latest_activity(session, made.sae.id, 5, reader=ben.actor.reader) == act


async def test_a_page_that_a_browser_keeps_is_read_again_after_any_act(
    client: httpx.AsyncClient, made: Synthetic, engine: AsyncEngine, sessionmaker: Sessions
) -> None:
    address = f"/saes/{made.sae.slug}/features/5"
    await put(sessionmaker, made.sae, 5, Actor("grace"))
    async with transaction(sessionmaker) as session:
        label_id = await session.scalar(text("SELECT id FROM label"))
    assert isinstance(label_id, int)

    async def approve() -> None:
        async with transaction(sessionmaker) as session:
            await vote(session, label_id, 1, actor=Actor("mary"))

    async def make() -> None:
        await make_set(engine, made.sae, needed=1)

    for act in (approve, make):  # else it would ask again on every visit, for an act that it does not know
        kept = (await client.get(address)).headers["ETag"]
        assert (await client.get(address, headers={"If-None-Match": kept})).status_code == 304
        await act()
        assert (await client.get(address, headers={"If-None-Match": kept})).status_code == 200
