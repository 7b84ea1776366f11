"""`seesae bench web`: a site with many features in a scratch database, and clients that browse it.

The web processes are those that `seesae serve` runs, on loopback; the clients run in this process. Server times are in
the header `Server-Timing`: from the first byte of a request to its response being ready, including every wait for the
database or for other requests.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import numpy as np
import psutil

from app.bench.browsing import WARM_SECONDS, Visit, browse
from app.bench.scratch_database import Notify, Plan, check_disk, fill, scratch_database, size_of
from app.db import create_engine
from app.errors import UserError
from app.schema import upgrade
from app.settings import Settings
from app.supervision.child_processes import Child
from app.supervision.embedded_postgres import database
from app.supervision.sockets import listen, url_of
from app.supervision.web_processes import web_children

_UP_SECONDS = 60.0


def run(settings: Settings, plan: Plan, notify: Notify) -> dict[str, Any]:
    """Fill a scratch database, browse it, and drop it in every case.

    Raises:
        UserError: the disk is too small, or the database cannot be reached.
    """
    with database(settings.home, settings.database_url) as server:
        check_disk(server, plan)
        with scratch_database(server, notify) as url:
            upgrade(url)
            return asyncio.run(_measure(url, plan, notify))


async def _measure(url: str, plan: Plan, notify: Notify) -> dict[str, Any]:
    engine = create_engine(url, statement_timeout=None)
    try:
        started = time.monotonic()
        words = await fill(engine, plan, notify)
        fill_s = time.monotonic() - started
        size = await size_of(engine)
    finally:
        await engine.dispose()
    async with _web_processes(url, plan.processes, notify) as site:
        notify(f"{plan.clients} clients browse for {WARM_SECONDS + plan.seconds:.0f} s.")
        web = [psutil.Process(pid) for pid in site.pids]
        browsed = await browse(site.url, plan, words, web)
        rss = max(process.memory_info().rss for process in web)
    visits = browsed.visits
    return {
        "features": plan.saes * plan.features,
        "clients": plan.clients,
        **_figures(visits),
        "bytes_per_feature": round(size / (plan.saes * plan.features)),
        "errors": sum(visit.failed for visit in visits),
        "saes": plan.saes,
        "pause_s": plan.pause,
        "requests": len(visits),
        "requests_per_s": round(len(visits) / plan.seconds, 1),
        "fill_s": round(fill_s, 1),
        "web_start_s": round(site.start_s, 2),
        "web_processes": plan.processes,
        "web_rss_mb": round(rss / 2**20, 1),
        "web_cpu_ms": round(1000 * browsed.web_s / max(1, len(visits)), 1),
        "machine_cpu_ms": round(1000 * browsed.machine_s / max(1, len(visits)), 1),
    }


def _figures(visits: list[Visit]) -> dict[str, float | None]:
    """Return times of pages and lists in milliseconds, by the server's clock and by the clients'."""
    figures: dict[str, float | None] = {}
    for kind in ("feature", "list"):
        answered = [visit for visit in visits if visit.kind == kind and not visit.failed]
        for name, times, share in (
            ("p95_ms", [visit.server_ms for visit in answered], 0.95),
            ("p50_ms", [visit.server_ms for visit in answered], 0.5),
            ("client_p95_ms", [visit.client_ms for visit in answered], 0.95),
        ):
            figures[f"{kind}_{name}"] = round(float(np.quantile(times, share)), 1) if times else None
    return figures


@dataclass(frozen=True)
class _Web:
    """Running web processes; the first page was served `start_s` after their start."""

    url: str
    pids: list[int]
    start_s: float


@asynccontextmanager
async def _web_processes(database_url: str, number: int, notify: Notify) -> AsyncIterator[_Web]:
    """Serve the site on the scratch database, as `seesae serve` does."""
    with TemporaryDirectory(prefix="seesae-bench-") as folder, listen("127.0.0.1", 0) as listening:
        environment = {"SEESAE_DATABASE_URL": database_url, "SEESAE_HOST": "127.0.0.1", "SEESAE_HOME": folder}
        specs = web_children(number, listening, environment, Path(folder) / "metrics")
        children = [Child(spec, Path(folder), on_restart=notify) for spec in specs]
        started = time.monotonic()
        running = [asyncio.create_task(child.keep_running()) for child in children]
        try:
            await _first_page(url_of(listening))
            start_s = time.monotonic() - started
            yield _Web(url_of(listening), [child.pid for child in children if child.pid is not None], start_s)
        finally:
            for child in children:
                child.stop()
            await asyncio.gather(*running)


async def _first_page(url: str) -> None:
    async with httpx.AsyncClient(trust_env=False, timeout=_UP_SECONDS) as client:
        with suppress(httpx.TransportError):
            if (await client.get(url)).is_success:
                return
    raise UserError("The web process does not answer.")
