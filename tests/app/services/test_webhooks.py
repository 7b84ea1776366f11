"""Webhooks: signed, sent again, never to private addresses; through the queue and a real receiver."""

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from app.db import create_sessionmaker
from app.errors import Unprocessable
from app.queries.activity import WEBHOOKS
from app.queries.webhooks import list_deliveries
from app.runs import jobs, queue
from app.runs.job_context import JobContext
from app.services.actors import Actor, Role
from app.services.webhooks import addresses_of, create_webhook, is_public
from app.settings import Settings
from tests.factories import Synthetic, add_label
from tests.labelling import label, make_set
from tests.people import sign_in
from tests.web.api.problems import problem
from tests.web.site import site

Sessions = async_sessionmaker[AsyncSession]


@dataclass
class Receiver:
    """An HTTP server that answers `answers` in turn, then 200, and keeps what it was sent."""

    answers: list[int] = field(default_factory=list)
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    url: str = ""

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        headers = dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if line)
        headers = {name.lower(): value for name, value in headers.items()}
        self.got.append((headers, await reader.readexactly(int(headers["content-length"]))))
        status = self.answers.pop(0) if self.answers else 200
        writer.write(f"HTTP/1.1 {status} X\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n".encode())
        await writer.drain()
        writer.close()


@asynccontextmanager
async def receiver(*answers: int) -> AsyncIterator[Receiver]:
    made = Receiver(list(answers))
    server = await asyncio.start_server(made.take, "127.0.0.1", 0)
    async with server:
        made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/hook?a=1"
        yield made


async def work(settings: Settings, engine: AsyncEngine) -> None:
    """Do the deliveries that are due."""
    assert settings.database_url is not None
    context = {"ctx": JobContext(settings, engine, create_sessionmaker(engine))}
    with jobs.app.replace_connector(queue.connector(settings.database_url)) as app:
        async with app.open_async():
            await app.run_worker_async(
                queues=[WEBHOOKS], wait=False, additional_context=context, install_signal_handlers=False
            )


async def due_now(sessions: Sessions) -> None:
    async with sessions.begin() as session:
        await session.execute(text("UPDATE procrastinate_jobs SET scheduled_at = now() WHERE queue_name = 'webhooks'"))


def is_signed(secret: str, headers: dict[str, str], body: bytes) -> bool:
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.{body.decode()}".encode()
    expected = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    return headers["webhook-signature"] == f"v1,{expected}"


@pytest.fixture
def settings(database_url: str) -> Settings:
    return Settings(database_url=database_url, webhooks_to_private=True, author="ada")


async def test_acts_are_sent_signed_and_again_until_they_are_taken(
    made: Synthetic, engine: AsyncEngine, sessionmaker: Sessions, settings: Settings
) -> None:
    await make_set(engine, made.sae, "blind", blind=True)
    async with receiver(500, 302) as taking:
        async with sessionmaker.begin() as session:
            options = {"actor": Actor("ada"), "url": taking.url, "kinds": ["label"], "sae": made.sae.slug}
            webhook, secret = await create_webhook(session, settings, **options)  # type: ignore[arg-type]
        async with sessionmaker.begin() as session:
            written = await add_label(session, made.sae, 5, "rivers")
            await add_label(session, made.sae, 6, "a draft", status="draft")
            await label(session, made.sae, 7, "grace", "hidden", label_set="blind")
        for _ in range(3):
            await work(settings, engine)
            await due_now(sessionmaker)
        assert len(taking.got) == 3
        headers, body = taking.got[-1]
        assert len({sent["webhook-id"] for sent, _ in taking.got}) == 1
        assert is_signed(secret, headers, body)
        assert headers["host"] in taking.url
        sent = json.loads(body)
        assert (sent["type"], sent["data"]["feature"], sent["data"]["subject"]) == ("label.saved", 5, written.id)
        assert "rivers" not in body.decode()
        async with sessionmaker() as session:
            [delivery] = await list_deliveries(session, webhook.id, limit=10)
        assert (delivery.state, delivery.attempts, delivery.status, delivery.error) == ("delivered", 3, 200, "")


async def test_a_private_address_is_refused_when_made_and_when_sent(
    made: Synthetic, engine: AsyncEngine, sessionmaker: Sessions, settings: Settings
) -> None:
    strict = settings.model_copy(update={"webhooks_to_private": False})
    for url in (
        "http://127.0.0.1/",
        "http://[::1]:80/",
        "http://localhost/",
        "http://0x7f000001/",
        "http://10.1.2.3/",
        "http://[",
    ):
        with pytest.raises(Unprocessable, match=r"private address|no address"):
            await addresses_of(url, strict)
    for url in (
        "ftp://example.org/",
        "example.org",
        "https://",
        "http://a:b@example.org/",
        "http://:b@example.org/",
        "http://example.org:0/",
        "http://example.org/\a",
        "http://xn--/",
        "http://x:99999/",
    ):
        with pytest.raises(Unprocessable, match="web address"):
            await addresses_of(url, strict)
    for address in ("169.254.169.254", "::ffff:10.0.0.1", "64:ff9b::a00:1", "2002:a00:1::", "224.0.0.1", "0.0.0.0"):
        assert not is_public(address)
    for address in ("::10.0.0.1", "64:ff9b:1::a00:1", "fec0::1", "fe80::1%eth0", "fc00::1", "ff0e::1", "240.0.0.1"):
        assert not is_public(address)
    for address in ("1.1.1.1", "::ffff:1.1.1.1", "2606:4700::1111"):
        assert is_public(address)
    async with receiver() as taking:
        async with sessionmaker.begin() as session:
            options = {"actor": Actor("ada"), "url": taking.url, "kinds": ["label"], "sae": made.sae.slug}
            webhook, _ = await create_webhook(session, settings, **options)  # type: ignore[arg-type]
        async with sessionmaker.begin() as session:
            await add_label(session, made.sae, 5, "rivers")
        await work(strict, engine)
        assert not taking.got
        async with sessionmaker() as session:
            [delivery] = await list_deliveries(session, webhook.id, limit=10)
        assert "private address" in delivery.error


async def test_admins_alone_make_see_and_delete_webhooks_of_an_sae(
    made: Synthetic, engine: AsyncEngine, sessionmaker: Sessions, settings: Settings
) -> None:
    boss, reviewer = await sign_in(engine, "boss", Role.admin), await sign_in(engine, "rev", Role.reviewer)
    body = {"url": "http://127.0.0.1:9/", "sae": made.sae.slug, "kinds": ["comment"]}
    async with site(settings) as client:
        problem(await client.post("/api/v1/webhooks", json=body, headers=reviewer.headers), 403)
        assert (await client.post("/webhooks", data=body, headers=reviewer.headers)).status_code == 403
        first = await client.post("/api/v1/webhooks", json=body, headers=boss.headers)
        assert first.status_code == 201, first.text
        secret = first.json()["secret"]
        problem(await client.delete("/api/v1/webhooks/1", headers=reviewer.headers), 403)
        problem(await client.get("/api/v1/webhooks/1/deliveries", headers=reviewer.headers), 403)
        for path in ("/webhooks/1", "/webhooks/1/delete"):
            method = "POST" if path.endswith("delete") else "GET"
            assert (await client.request(method, path, headers=reviewer.headers)).status_code == 403
        listed = await client.get("/api/v1/webhooks", headers=reviewer.headers)
        assert listed.json() == {"webhooks": []}
        assert "127.0.0.1" not in (await client.get("/webhooks", headers=reviewer.headers)).text
        page = await client.post("/webhooks", data=body, headers=boss.headers)
        assert "whsec_" in page.text
        assert page.headers["cache-control"] == "no-store"
        listed = await client.get("/api/v1/webhooks", headers=boss.headers)
        assert len(listed.json()["webhooks"]) == 2
        for path in ("/api/v1/webhooks", "/webhooks", "/webhooks/1", "/api/v1/webhooks/1/deliveries"):
            answer: httpx.Response = await client.get(path, headers=boss.headers)
            assert answer.status_code == 200
            assert secret not in answer.text
        for wrong in ({"url": "x"}, {"kinds": []}, {"kinds": ["votes"]}):
            problem(await client.post("/api/v1/webhooks", json=body | wrong, headers=boss.headers), 422)
        for missing in ({"sae": "none"}, {"set": "none"}):
            problem(await client.post("/api/v1/webhooks", json=body | missing, headers=boss.headers), 404)
        refused = await client.post("/webhooks", data=body | {"url": "<b>"}, headers=boss.headers)
        assert refused.status_code == 422
        assert 'value="<b>"' not in refused.text
        assert (await client.delete("/api/v1/webhooks/1", headers=boss.headers)).status_code == 204
        assert (await client.post("/webhooks/2/delete", headers=boss.headers)).status_code == 303
        problem(await client.delete("/api/v1/webhooks/1", headers=boss.headers), 404)
