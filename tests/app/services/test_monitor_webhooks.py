"""Webhooks of monitors: alerts by the minute, without their texts, and what people do with the monitor."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from app.errors import Conflict, Forbidden, NotFound, Unprocessable
from app.queries.activity import ActivityView, list_activity
from app.queries.sql.visibility import NOBODY
from app.queries.webhooks import DeliveryView, WebhookView, list_deliveries
from app.services.actors import Actor, Role
from app.services.monitors import acknowledge, change_monitor, delete_monitor, find_monitor
from app.services.webhooks import LISTED, MAX_OF_MONITOR, create_webhook, find_webhook, list_webhooks
from app.settings import Settings
from tests.app.services.test_webhooks import Receiver, Sessions, due_now, is_signed, receiver, work
from tests.factories import Synthetic
from tests.monitors import FPR, add_alerts, add_monitor
from tests.people import sign_in
from tests.web.api.problems import problem
from tests.web.site import site

ADA = Actor("ada")
SECRET_WORDS = "what somebody said in confidence"


@pytest.fixture
def settings(database_url: str) -> Settings:
    return Settings(
        database_url=database_url, webhooks_to_private=True, author="ada", base_url="https://sae.example.org"
    )


async def watched(
    made: Synthetic, sessions: Sessions, settings: Settings, url: str, *, keep_text: bool = False
) -> tuple[WebhookView, str]:
    """A monitor of ada's with a webhook, which is made after it and so is not told of that; with its secret."""
    async with sessions.begin() as session:
        name = await add_monitor(session, made.sae, keep_text=keep_text)
        return await create_webhook(session, settings, actor=ADA, url=url, monitor=name)


async def alert(sessions: Sessions, number: int, **options: Any) -> list[int]:
    async with sessions.begin() as session:
        return await add_alerts(session, "kings", number=number, **options)


async def acts(sessions: Sessions) -> list[ActivityView]:
    """What the feed has of monitors, the first act first."""
    async with sessions() as session:
        return (await list_activity(session, reader=NOBODY, limit=200))[::-1]


async def deliveries(sessions: Sessions, webhook: WebhookView) -> list[DeliveryView]:
    async with sessions() as session:
        return await list_deliveries(session, webhook.id, limit=200)


def sent(taking: Receiver) -> list[dict[str, Any]]:
    return [json.loads(body) for _, body in taking.got]


def types(taking: Receiver) -> Sequence[str]:
    return [message["type"] for message in sent(taking)]


async def test_alerts_are_sent_signed_and_again_with_scores_and_without_texts(
    made: Synthetic, engine: AsyncEngine, sessionmaker: Sessions, settings: Settings
) -> None:
    async with receiver(500, 503) as taking:
        webhook, secret = await watched(made, sessionmaker, settings, taking.url)
        ids = await alert(sessionmaker, 3)
        for _ in range(3):
            await work(settings, engine)
            await due_now(sessionmaker)
        assert len(taking.got) == 3
        assert len({headers["webhook-id"] for headers, _ in taking.got}) == 1
        assert all(is_signed(secret, headers, body) for headers, body in taking.got)
        assert not is_signed(secret, taking.got[0][0], taking.got[0][1] + b" ")
        message = sent(taking)[-1]
        assert message["type"] == "alert.raised"
        data = message["data"]
        assert (data["monitor"], data["url"]) == ("kings", "https://sae.example.org/monitors/kings")
        assert (data["person"], data["alerts"], data["threshold"], data["fpr"]) == (None, 3, 1.0, FPR)
        assert [one["id"] for one in data["strongest"]] == ids[::-1]
        strongest = data["strongest"][0]
        assert strongest.keys() == {"id", "score", "threshold", "source", "run", "place", "at"}
        assert (strongest["score"], strongest["source"], strongest["place"]) == (4.0, "scan", "moods 2")
        [delivery] = await deliveries(sessionmaker, webhook)
        assert (delivery.state, delivery.attempts, delivery.status, delivery.alerts) == ("delivered", 3, 200, 3)


async def test_texts_are_sent_only_as_long_as_the_monitor_keeps_them(
    made: Synthetic, engine: AsyncEngine, sessionmaker: Sessions, settings: Settings
) -> None:
    async with receiver() as taking:
        await watched(made, sessionmaker, settings, taking.url, keep_text=True)
        await alert(sessionmaker, 1, text=SECRET_WORDS + "!" * 5_000)
        await work(settings, engine)
        told = sent(taking)[0]["data"]["strongest"][0]["text"]
        assert told.startswith(SECRET_WORDS)
        assert len(told) == 2_000
        await alert(sessionmaker, 1, text=SECRET_WORDS)
        async with sessionmaker.begin() as session:
            await change_monitor(session, await find_monitor(session, "kings"), actor=ADA, keep_text=False)
        await due_now(sessionmaker)
        await work(settings, engine)
        assert sorted(types(taking)) == ["alert.raised", "alert.raised", "monitor.keeps.none"]
        assert SECRET_WORDS not in "".join(body.decode() for _, body in taking.got[1:])


async def test_alerts_of_one_minute_come_in_one_message_however_many(
    made: Synthetic, engine: AsyncEngine, sessionmaker: Sessions, settings: Settings
) -> None:
    async with receiver() as taking:
        webhook, _ = await watched(made, sessionmaker, settings, taking.url)
        for _ in range(100):  # as a scan of 10,000 texts does, by parts
            await alert(sessionmaker, 30)
        assert len(await deliveries(sessionmaker, webhook)) == 2
        await work(settings, engine)
        assert [message["data"]["alerts"] for message in sent(taking)] == [30]  # the first at once; the rest is not due
        await due_now(sessionmaker)
        await work(settings, engine)
        second = sent(taking)[1]["data"]
        assert (second["alerts"], len(second["strongest"])) == (2_970, LISTED)
        assert {one["score"] for one in second["strongest"]} == {31.0}  # the strongest of each part

        await alert(sessionmaker, 1)  # what was sent stays as it is
        assert [one.alerts for one in await acts(sessionmaker) if one.act == "alert raised"] == [30, 2_970, 1]
        assert len(await deliveries(sessionmaker, webhook)) == 3
        async with sessionmaker.begin() as session:
            await session.execute(text("UPDATE activity SET open_until = now() - interval '2 minutes'"))
        await alert(sessionmaker, 1)
        await work(settings, engine)
        assert sent(taking)[-1]["data"]["alerts"] == 1  # after a quiet minute, at once again


async def test_alerts_that_come_at_the_same_time_are_each_told_once(
    made: Synthetic, engine: AsyncEngine, sessionmaker: Sessions, settings: Settings
) -> None:
    import asyncio

    async with receiver() as taking:
        webhook, _ = await watched(made, sessionmaker, settings, taking.url)
        await asyncio.gather(*(alert(sessionmaker, 2) for _ in range(8)))
        assert [one.alerts for one in (await deliveries(sessionmaker, webhook))] == [14, 2]
        await due_now(sessionmaker)
        await work(settings, engine)
        told = [one["id"] for message in sent(taking) for one in message["data"]["strongest"]]
        assert len(told) == len(set(told)) == 16


async def test_what_people_do_with_a_monitor_is_sent_its_deletion_too(
    made: Synthetic, engine: AsyncEngine, sessionmaker: Sessions, settings: Settings
) -> None:
    async with receiver() as taking:
        webhook, _ = await watched(made, sessionmaker, settings, taking.url)
        async with sessionmaker.begin() as session:
            monitor = await change_monitor(
                session, await find_monitor(session, "kings"), actor=ADA, candidate="probe-mean"
            )
            assert monitor.threshold == 2.0
            monitor = await change_monitor(session, monitor, actor=ADA, state="paused", notes=SECRET_WORDS)
            await change_monitor(session, monitor, actor=ADA, state="paused")  # nothing new
        first, _ = await alert(sessionmaker, 2)
        async with sessionmaker.begin() as session:
            monitor = await find_monitor(session, "kings")
            for _ in range(2):  # the second time is no act
                await acknowledge(session, monitor, first, actor=ADA, note=SECRET_WORDS)
        await work(settings, engine)
        async with sessionmaker.begin() as session:
            await delete_monitor(session, await find_monitor(session, "kings"), actor=ADA)
        await work(settings, engine)
        done = ["monitor.threshold", "monitor.paused", "monitor.noted", "alert.raised", "alert.acknowledged"]
        assert sorted(types(taking)[:-1]) == sorted(done)
        assert SECRET_WORDS not in "".join(body.decode() for _, body in taking.got)
        by_type = {message["type"]: message["data"] for message in sent(taking)}
        acknowledged = by_type["alert.acknowledged"]
        assert (acknowledged["person"], [one["id"] for one in acknowledged["strongest"]]) == ("ada", [first])
        assert (by_type["monitor.threshold"]["threshold"], by_type["monitor.threshold"]["candidate"]) == (
            2.0,
            "probe-mean",
        )
        assert by_type["monitor.deleted"]["state"] == "deleted"
        async with sessionmaker() as session:
            left = await find_webhook(session, webhook.id, actor=ADA)
        assert (left.monitor, left.monitor_id, left.waiting) == ("kings", None, 0)
        feed = [(one.act, one.person, one.monitor, one.has_monitor) for one in await acts(sessionmaker)]
        assert feed[0] == ("monitor made", "ada", "kings", False)
        assert feed[-1] == ("monitor deleted", "ada", "kings", False)
        assert [act for act, _, _, _ in feed].count("alert acknowledged") == 1


async def test_kinds_are_kept_apart_and_other_monitors_are_not_told_of(
    made: Synthetic, engine: AsyncEngine, sessionmaker: Sessions, settings: Settings
) -> None:
    async with receiver() as taking:
        async with sessionmaker.begin() as session:
            await add_monitor(session, made.sae)
            await add_monitor(session, made.sae, name="queens")
            await create_webhook(session, settings, actor=ADA, url=taking.url, monitor="queens")
            await create_webhook(session, settings, actor=ADA, url=taking.url, monitor="kings", kinds=["monitor"])
            await create_webhook(session, settings, actor=ADA, url=taking.url, sae=made.sae.slug)
        await alert(sessionmaker, 1)
        async with sessionmaker.begin() as session:
            await change_monitor(session, await find_monitor(session, "kings"), actor=ADA, state="paused")
        await work(settings, engine)
        assert types(taking) == ["monitor.paused"]


async def test_what_a_webhook_of_a_monitor_cannot_be(
    made: Synthetic, sessionmaker: async_sessionmaker[AsyncSession], settings: Settings
) -> None:
    strict = settings.model_copy(update={"webhooks_to_private": False})
    url = "http://127.0.0.1:9/"
    async with sessionmaker.begin() as session:
        await add_monitor(session, made.sae)

        async def make(of: Settings = settings, actor: Actor = ADA, **options: Any) -> None:
            await create_webhook(session, of, actor=actor, **{"url": url, "monitor": "kings"} | options)

        with pytest.raises(Unprocessable, match="private address"):
            await make(strict)
        with pytest.raises(Unprocessable, match="web address"):
            await make(url="ftp://example.org/")
        for options in ({"sae": made.sae.slug}, {"monitor": ""}, {"label_set": "default"}):
            with pytest.raises(Unprocessable, match="what the webhook is told of"):
                await make(**options)
        for kinds in ([], ["label"], ["alert", "votes"]):
            with pytest.raises(Unprocessable, match="one or more of alert, monitor"):
                await make(kinds=kinds)
        with pytest.raises(NotFound, match="no monitor"):
            await make(monitor="none")
        with pytest.raises(Forbidden, match="ada’s"):
            await make(actor=Actor("kay", role=Role.labeller))
        for _ in range(MAX_OF_MONITOR):
            await make()
        with pytest.raises(Conflict, match="10 webhooks"):
            await make()
        assert len(await list_webhooks(session, actor=ADA, monitor="kings")) == MAX_OF_MONITOR


async def test_whoever_may_change_a_monitor_makes_sees_and_deletes_its_webhooks(
    made: Synthetic, engine: AsyncEngine, sessionmaker: Sessions, settings: Settings
) -> None:
    ada, kay, reviewer, viewer = [
        await sign_in(engine, name, role)
        for name, role in (("ada", Role.labeller), ("kay", Role.labeller), ("rev", Role.reviewer), ("vi", Role.viewer))
    ]
    async with sessionmaker.begin() as session:
        await add_monitor(session, made.sae)
        await session.execute(text("UPDATE monitor SET owner_id = :ada"), {"ada": ada.actor.person_id})
    body = {"url": "http://127.0.0.1:9/hook", "monitor": "kings", "kinds": ["alert"]}
    url = "/webhooks?monitor=kings"
    async with site(settings) as client:
        for who in (kay, viewer):
            problem(await client.post("/api/v1/webhooks", json=body, headers=who.headers), 403)
            assert (await client.post("/webhooks", data=body, headers=who.headers)).status_code == 403
            assert (await client.get(url, headers=who.headers)).status_code == 403
            assert "/webhooks?monitor" not in (await client.get("/monitors/kings", headers=who.headers)).text
        first = await client.post("/api/v1/webhooks", json=body, headers=ada.headers)
        assert first.status_code == 201, first.text
        assert (first.json()["monitor"], first.json()["sae"], first.json()["kinds"]) == ("kings", None, ["alert"])
        page = await client.post("/webhooks", data=body, headers=ada.headers)
        assert "whsec_" in page.text
        assert page.headers["cache-control"] == "no-store"
        for who, seen in ((ada, 2), (reviewer, 2), (kay, 0)):
            listed = await client.get("/api/v1/webhooks", headers=who.headers)
            assert len(listed.json()["webhooks"]) == seen
            assert ("127.0.0.1:9" in (await client.get("/webhooks", headers=who.headers)).text) == bool(seen)
            of_one = await client.get("/webhooks/1", headers=who.headers)
            assert of_one.status_code == (200 if seen else 403)
            assert first.json()["secret"] not in of_one.text + listed.text
        assert url in (await client.get("/monitors/kings", headers=ada.headers)).text
        problem(await client.delete("/api/v1/webhooks/1", headers=kay.headers), 403)
        problem(await client.get("/api/v1/webhooks/1/deliveries", headers=kay.headers), 403)
        assert (await client.delete("/api/v1/webhooks/1", headers=ada.headers)).status_code == 204
        gone = await client.post("/webhooks/2/delete", headers=reviewer.headers)
        assert (gone.status_code, gone.headers["location"]) == (303, url)


async def test_webhooks_that_are_added_at_once_are_no_more_than_a_monitor_may_have(
    made: Synthetic, sessionmaker: Sessions, settings: Settings
) -> None:
    async with sessionmaker.begin() as session:
        await add_monitor(session, made.sae)

    async def add(number: int) -> None:
        async with sessionmaker.begin() as session:
            await create_webhook(session, settings, actor=ADA, url=f"http://127.0.0.1:9/{number}", monitor="kings")

    made_or_not = await asyncio.gather(*(add(number) for number in range(MAX_OF_MONITOR + 8)), return_exceptions=True)
    assert sum(one is None for one in made_or_not) == MAX_OF_MONITOR
    assert all(one is None or isinstance(one, Conflict) for one in made_or_not)
