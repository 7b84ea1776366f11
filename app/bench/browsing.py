"""Clients of `seesae bench web`, which browse features and lists."""

import asyncio
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import unescape
from urllib.parse import urlencode

import httpx
import numpy as np
import psutil
from numpy.typing import NDArray

from app.bench import synthetic
from app.bench.scratch_database import Plan, slug

WARM_SECONDS = 3.0
"""Browsing before the measurement."""


@dataclass
class Visit:
    """One request, with its time by the server's clock and by the client's."""

    kind: str
    server_ms: float
    client_ms: float
    failed: bool


@dataclass
class Person:
    """A client that opens pages of features and filtered lists, and reads on in some of the lists."""

    client: httpx.AsyncClient
    plan: Plan
    words: NDArray[np.str_]
    random: np.random.Generator
    visits: list[Visit] = field(default_factory=list)

    async def browse(self) -> None:
        """Open page after page until cancelled."""
        await self._look()
        while True:
            base = f"/saes/{slug(int(self.random.integers(self.plan.saes)))}/features"
            if self.random.random() < 0.6:
                await self._open("feature", f"{base}/{self.random.integers(self.plan.features)}")
            else:
                page = await self._open("list", f"{base}?{urlencode(self._filters())}")
                while self.random.random() < 0.4 and (more := re.search(r'data-more href="([^"]+)"', page)):
                    page = await self._open("list", unescape(more[1]), {"HX-Request": "true"})

    def _filters(self) -> dict[str, str]:
        """Return filters as the form sends them, most of them unset."""
        filters = {"sort": str(self.random.choice(_SORTS))}
        if self.random.random() < 0.4:
            filters["min_density"] = str(self.random.choice(["1e-05", "0.0001", "0.001"]))
        if self.random.random() < 0.4:
            filters["max_density"] = str(self.random.choice(["0.001", "0.01", "0.1"]))
        if self.random.random() < 0.3:
            filters["label"] = str(self.random.choice(["labelled", "unlabelled"]))
        if self.random.random() < 0.3:
            word = str(self.words[int(synthetic.frequent_tokens(self.random, ()))])
            filters["q"] = word[: int(self.random.integers(3, 9))]
        return filters

    async def _open(self, kind: str, address: str, headers: dict[str, str] | None = None) -> str:
        """Return a page's text; a request that fails counts as an error and returns no text."""
        started = time.perf_counter()
        try:
            response = await self.client.get(address, headers=headers)
            failed, timing, page = response.status_code != 200, response.headers.get("server-timing", ""), response.text
        except httpx.HTTPError:
            failed, timing, page = True, "", ""
        spent = 1000 * (time.perf_counter() - started)
        said = re.search(r"dur=([\d.]+)", timing)
        self.visits.append(Visit(kind, float(said[1]) if said else 0.0, spent, failed or not said))
        await self._look()
        return "" if failed else page

    async def _look(self) -> None:
        await asyncio.sleep(self.plan.pause * self.random.uniform(0.5, 1.5))


_SORTS = ("density", "density-asc", "max", "max-asc", "index", "index-desc")


@dataclass(frozen=True)
class Browsed:
    """Visits, and the CPU seconds meanwhile of the web processes together, and of all that this machine did."""

    visits: list[Visit]
    web_s: float
    machine_s: float


async def browse(url: str, plan: Plan, words: NDArray[np.str_], web: Sequence[psutil.Process]) -> Browsed:
    """Run all clients. The first seconds, in which caches fill, are not counted."""
    async with httpx.AsyncClient(
        base_url=url, trust_env=False, timeout=30.0, limits=httpx.Limits(max_keepalive_connections=plan.clients)
    ) as client:
        people = [Person(client, plan, words, np.random.default_rng((6, number))) for number in range(plan.clients)]
        tasks = [asyncio.create_task(person.browse()) for person in people]
        await asyncio.sleep(WARM_SECONDS)
        for person in people:
            person.visits.clear()
        web_s, machine_s = _cpu_seconds(web), _busy_seconds()
        await asyncio.sleep(plan.seconds)
        web_s, machine_s = _cpu_seconds(web) - web_s, _busy_seconds() - machine_s
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    for error in ended:
        if isinstance(error, Exception):
            raise error
    return Browsed([visit for person in people for visit in person.visits], web_s, machine_s)


def _cpu_seconds(processes: Sequence[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


def _busy_seconds() -> float:
    times = psutil.cpu_times()
    elsewhere = ("idle", "iowait", "steal", "guest", "guest_nice")  # guests' time is in that of users, too
    return float(sum(times) - sum(getattr(times, name, 0.0) for name in elsewhere))
