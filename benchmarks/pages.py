"""Processor time per page of the site, without a server, network or clients: `python benchmarks/pages.py [--pages N]`.

Fills a scratch database with one synthetic SAE, calls the application in this process, and prints milliseconds of this
process' own time per page as JSON: the median, and the tenth percentile, which is nearest to an idle machine's. Each
feature is opened once, then some of them again.
"""

import argparse
import asyncio
import json
import logging
import random
import resource
import time
from collections.abc import Iterator
from typing import Any

import structlog
from fastapi import FastAPI
from starlette.types import Message, Scope

from app.bench.scratch_database import Plan, fill, scratch_database, slug
from app.db import create_engine
from app.main import create_app
from app.schema import upgrade
from app.settings import load_settings
from app.supervision.embedded_postgres import database

FEATURES = 16_384
AGAIN = 50
"""Features that are opened over and over."""
WARM = 100
LISTS = ("sort=density", "sort=max", "min_density=1e-05", "label=unlabelled&sort=max-asc", "sort=index")


async def open_page(app: FastAPI, path: str, query: str = "") -> int:
    """Request a page as a browser does; return the bytes of the compressed answer."""
    scope: Scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(b"host", b"127.0.0.1"), (b"accept-encoding", b"gzip")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    answered, messages = asyncio.Event(), list[Message]()

    async def receive() -> Message:
        if not messages and not answered.is_set():
            answered.set()
            return {"type": "http.request", "body": b"", "more_body": False}
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: Message) -> None:
        messages.append(message)

    await app(scope, receive, send)
    if messages[0]["status"] != 200:
        raise SystemExit(f"{path} answers {messages[0]['status']}.")
    return sum(len(message.get("body", b"")) for message in messages)


def addresses(kind: str, draw: random.Random) -> Iterator[tuple[str, str]]:
    """Yield paths and query strings of one kind of page, without end."""
    base = f"/saes/{slug(0)}/features"
    while True:
        if kind == "list":
            yield base, draw.choice(LISTS)
        else:
            yield f"{base}/{draw.randrange(AGAIN if kind == 'feature again' else FEATURES)}", ""


async def measure(app: FastAPI, kind: str, pages: int) -> dict[str, float]:
    """Return milliseconds of processor time per page."""
    spent, size = [], 0
    for number, (path, query) in zip(range(WARM + pages), addresses(kind, random.Random(1)), strict=False):
        before = time.process_time()
        read = await open_page(app, path, query)
        if number >= WARM:
            spent.append(1000 * (time.process_time() - before))
            size += read
    spent.sort()
    return {
        "median_ms": round(spent[pages // 2], 1),
        "tenth_percentile_ms": round(spent[pages // 10], 1),
        "kilobytes": round(size / pages / 1000, 1),
    }


async def run(url: str, pages: int) -> dict[str, Any]:
    """Fill the database and measure each kind of page."""
    engine = create_engine(url, statement_timeout=None)
    await fill(engine, Plan(saes=1, features=FEATURES), lambda line: None)
    await engine.dispose()
    app = create_app(load_settings().model_copy(update={"database_url": url}))
    async with app.router.lifespan_context(app):
        found = {kind: await measure(app, kind, pages) for kind in ("feature", "feature again", "list")}
    return found | {"rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)}


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Processor time per page of the site.")
    parser.add_argument("--pages", type=int, default=200, help="pages of each kind")
    pages = parser.parse_args().pages
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    settings = load_settings()
    with database(settings.home, settings.database_url) as server, scratch_database(server, lambda line: None) as url:
        upgrade(url)
        print(json.dumps(asyncio.run(run(url, pages)), indent=1))


if __name__ == "__main__":
    main()
