"""`seesae serve`: Postgres, the site, the worker and inference, started in order, kept alive, stopped together."""

import asyncio
import secrets
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from app.home import HomeLock
from app.postgres import database
from app.processes import Child, ChildSpec
from app.schema import upgrade
from app.settings import Settings
from app.sockets import listen, url_of

Say = Callable[[str], None]
"""Tells the person at the terminal one line."""

_UP_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Site:
    """A running SeeSAE."""

    url: str
    database_url: str
    children: tuple[Child, ...]


@asynccontextmanager
async def running_site(settings: Settings, say: Say) -> AsyncIterator[Site]:
    """Start everything, yield once the site answers, and stop everything at the end.

    Raises:
        AlreadyRunning: another supervisor serves this home folder.
        UserError: the database or the port cannot be had.
    """
    with ExitStack() as stack:
        lock = HomeLock.claim(settings.home)
        stack.callback(lock.release)
        web_socket = stack.enter_context(
            listen(settings.host, settings.port, on_taken=lambda port: say(f"Port {port} is taken; trying the next."))
        )
        inference_socket = stack.enter_context(listen("127.0.0.1", 0))
        database_url = stack.enter_context(database(settings.home, settings.database_url))
        await asyncio.to_thread(upgrade, database_url)

        url = url_of(web_socket)
        shared = {
            "SEESAE_HOME": str(settings.home),
            "SEESAE_ARTIFACTS": str(settings.artifacts),
            "SEESAE_DATABASE_URL": database_url,
            "SEESAE_HOST": settings.host,
            "SEESAE_PORT": str(web_socket.getsockname()[1]),
        }
        specs = [ChildSpec("worker", ("worker",), shared, (lock.descriptor,))]
        if settings.inference_url is None:
            secret = settings.inference_secret.get_secret_value() if settings.inference_secret else None
            shared |= {
                "SEESAE_INFERENCE_URL": url_of(inference_socket),
                "SEESAE_INFERENCE_SECRET": secret or secrets.token_urlsafe(32),
            }
            specs.insert(0, _serving("inference", inference_socket.fileno(), shared, lock))
        specs.insert(0, _serving("web", web_socket.fileno(), shared, lock))

        children = tuple(Child(spec, settings.home / "logs", on_restart=say) for spec in specs)
        async with _kept_running(children):
            await _until_up(url, children[0].log_path, say)
            lock.announce(url)
            yield Site(url, database_url, children)


def _serving(name: str, descriptor: int, environment: dict[str, str], lock: HomeLock) -> ChildSpec:
    """A child that takes over a listening socket."""
    return ChildSpec(name, (name, "--fd", str(descriptor)), environment, (descriptor, lock.descriptor))


@asynccontextmanager
async def _kept_running(children: tuple[Child, ...]) -> AsyncIterator[None]:
    """Keep the children running until the end, then stop them all at once and wait for them."""
    tasks = [asyncio.create_task(child.keep_running(), name=child.spec.name) for child in children]
    try:
        yield
    finally:
        for child in children:
            child.stop()
        await asyncio.gather(*tasks)


async def _until_up(url: str, log: Path, say: Say) -> None:
    """Wait until the site answers; after a while say where to look, and wait on."""
    patience = asyncio.get_running_loop().time() + _UP_SECONDS
    async with httpx.AsyncClient(trust_env=False, timeout=5.0) as client:
        while True:
            try:
                if (await client.get(f"{url}/healthz")).is_success:
                    return
            except httpx.TransportError:
                pass
            if asyncio.get_running_loop().time() > patience:
                say(f"The site does not answer yet. Its log: {log}")
                patience += _UP_SECONDS
            await asyncio.sleep(0.05)


@asynccontextmanager
async def stop_signals() -> AsyncIterator[asyncio.Event]:
    """An event that Ctrl-C, SIGTERM or a closed terminal sets; a second Ctrl-C acts as ever."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    handled = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def handle() -> None:
        stop.set()
        loop.remove_signal_handler(signal.SIGINT)

    for number in handled:
        loop.add_signal_handler(number, handle)
    try:
        yield stop
    finally:
        for number in handled:
            loop.remove_signal_handler(number)
