"""Fifty people label one set at once, over HTTP; the site is killed in the middle, and started again.

No label is lost or doubled, no feature is leased to two people, every revision is accounted for, and nothing fails.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db import create_sessionmaker, transaction
from app.services.actors import Role
from app.tables import Activity, Label, LabelLease, LabelRevision
from tests.app.inference.test_crowd import process
from tests.factories import make_sae
from tests.people import SignedIn, sign_in

pytestmark = pytest.mark.slow

PEOPLE = 50
FEATURES = 100
NEEDED = 2
BEFORE_THE_KILL = 60
"""Labels that are acknowledged before the site is killed, out of 200."""
SECONDS = 120.0


class Site:
    """A web process that can be killed and started again on the same port."""

    def __init__(self, port: int, log: Path, **settings: str) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.start = lambda: process("web", "--port", str(port), log=log, **settings)

    async def is_up(self) -> None:
        async with (
            asyncio.timeout(SECONDS),
            httpx.AsyncClient(base_url=self.url, timeout=SECONDS, trust_env=False) as client,
        ):
            while True:
                try:
                    (await client.get("/readyz")).raise_for_status()
                except httpx.TransportError:
                    await asyncio.sleep(0.05)  # another process starts
                else:
                    return


class Crowd:
    """What fifty people were given and what was acknowledged to them."""

    def __init__(self, site: Site, set_id: int) -> None:
        self.site, self.set_id = site, set_id
        self.acknowledged: dict[tuple[int, int], dict[str, Any]] = {}
        self.statuses: Counter[int] = Counter()
        self.holders: dict[int, set[int]] = defaultdict(set)
        self.enough = asyncio.Event()

    async def label(self, person: SignedIn) -> None:
        """Take features and label each, until none is left; after a lost connection wait for the site and go on."""
        limits = httpx.Limits(max_connections=1)
        async with httpx.AsyncClient(
            base_url=self.site.url, headers=person.headers, timeout=SECONDS, trust_env=False, limits=limits
        ) as client:
            while True:
                try:
                    if not await self._one(client, person):
                        return
                except httpx.TransportError:
                    await self.site.is_up()

    async def _one(self, client: httpx.AsyncClient, person: SignedIn) -> bool:
        answer = await self._count(client.post(f"/api/v1/labelsets/{self.set_id}/next"))
        given = answer.json()
        feature = given["feature"]
        if feature is None:
            return await self._others_still_label(client)
        assert person.actor.person_id is not None
        holders = self.holders[feature]
        holders.add(person.actor.person_id)
        assert len(holders) == 1, f"feature {feature} was leased to {holders} at once"
        mine = f"/api/v1/saes/{given['sae']}/features/{feature}/labels/mine"
        body = {"explanation": f"{person.actor.name} on {feature}", "set": "crowd", "interpretability": 1 + feature % 5}
        try:
            written = await self._count(client.put(mine, json=body))
        finally:
            holders.discard(person.actor.person_id)
        assert written.status_code == httpx.codes.OK, written.text
        assert (person.actor.person_id, feature) not in self.acknowledged
        self.acknowledged[person.actor.person_id, feature] = written.json()
        if len(self.acknowledged) >= BEFORE_THE_KILL:
            self.enough.set()
        return True

    async def _others_still_label(self, client: httpx.AsyncClient) -> bool:
        """True while there may be a feature again: one that somebody holds now."""
        progress = (await self._count(client.get(f"/api/v1/labelsets/{self.set_id}"))).json()
        return progress["done"] < FEATURES and any(self.holders.values())

    async def _count(self, request: Any) -> httpx.Response:
        response: httpx.Response = await request
        self.statuses[response.status_code] += 1
        return response


async def test_fifty_people_label_while_the_site_is_killed(
    engine: AsyncEngine, database_url: str, tmp_path: Path, unused_tcp_port_factory: Callable[[], int]
) -> None:
    made = await make_sae(engine, features=FEATURES, publish=True)
    active = [row.number for row in made.features.rows() if row.count]
    admin = await sign_in(engine, "admin", Role.admin)
    people = [await sign_in(engine, f"person {number}") for number in range(PEOPLE)]
    settings = {"database_url": database_url, "writes_per_minute": "100000"}
    site = Site(unused_tcp_port_factory(), tmp_path / "web.log", **settings)

    with site.start() as first:
        await site.is_up()
        async with httpx.AsyncClient(
            base_url=site.url, headers=admin.headers, timeout=SECONDS, trust_env=False
        ) as client:
            new = {"sae": made.sae.slug, "name": "crowd", "needed": NEEDED, "blind": True, "order": "fewest"}
            answer = await client.post("/api/v1/labelsets", json=new | {"scope": {"features": active}})
            assert answer.status_code == httpx.codes.CREATED, answer.text
        crowd = Crowd(site, answer.json()["id"])
        work = asyncio.gather(*(crowd.label(person) for person in people))
        async with asyncio.timeout(SECONDS):
            await crowd.enough.wait()
        first.kill()
        first.wait()
    acknowledged = dict(crowd.acknowledged)
    with site.start():
        await site.is_up()
        async with asyncio.timeout(SECONDS):
            await work

    assert not [status for status in crowd.statuses if status >= 500], crowd.statuses
    assert crowd.statuses[httpx.codes.CONFLICT] == 0
    async with transaction(create_sessionmaker(engine)) as session:
        labels = (await session.execute(select(Label.person_id, Label.feature, Label.id, Label.explanation))).all()
        revisions = await session.scalar(select(func.count()).select_from(LabelRevision))
        saved = await session.scalar(select(func.count()).where(Activity.act == "label saved"))
        leases = await session.scalar(select(func.count()).select_from(LabelLease))
    written = {(person, feature): explanation for person, feature, _, explanation in labels}
    assert len(written) == len(labels) == revisions == saved
    for key, label in {**acknowledged, **crowd.acknowledged}.items():
        assert written[key] == label["explanation"]
    per_feature = Counter(feature for _, feature in written)
    assert max(per_feature.values()) == NEEDED
    assert leases == len([feature for feature in active if per_feature[feature] < NEEDED])
