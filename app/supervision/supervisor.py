"""Supervisor of `seesae serve`: start Postgres, site, worker and inference, restart what dies, stop all together."""

import asyncio
import secrets
import signal
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from app.artifacts import require_store
from app.schema import upgrade
from app.services.first_account import refuse_without_accounts
from app.settings import Settings, require_backend
from app.supervision.child_processes import Child, ChildSpec
from app.supervision.instance_lock import InstanceLock
from app.supervision.kept_database import Notify, kept_database
from app.supervision.preloading import tell_preloading
from app.supervision.sockets import listen, url_of
from app.supervision.web_processes import number_of_web_processes, web_children

_UP_SECONDS = 30.0
_LATER_SECONDS = 30.0
"""Longest time that the worker and further web processes wait for the model to be loaded, once the site answers."""


@dataclass(frozen=True, slots=True)
class Site:
    """A running SeeSAE."""

    url: str
    database_url: str
    inference_url: str


@asynccontextmanager
async def running_site(settings: Settings, notify: Notify, stop: asyncio.Event) -> AsyncIterator[Site]:
    """Start all processes, yield once the site answers, and stop them at the end.

    Raises:
        KeyboardInterrupt: `stop` was set before the site answered.
        AlreadyRunning: another supervisor serves this home folder.
        UserError: the database does not start or cannot be reached, no port is free, others could reach the site and
            it has no accounts, the back end of our own inference process is not installed, or the object store cannot
            be used.
    """
    if settings.inference_url is None:
        require_backend(settings)
    await asyncio.to_thread(require_store, settings)
    async with AsyncExitStack() as stack:
        lock = InstanceLock.claim(settings.home)
        stack.callback(lock.release)
        web_socket = stack.enter_context(
            listen(
                settings.host, settings.port, on_taken=lambda port: notify(f"Port {port} is taken; trying the next.")
            )
        )
        inference_socket = stack.enter_context(listen("127.0.0.1", 0))
        database_url = await stack.enter_async_context(kept_database(settings, notify, stop))
        await asyncio.to_thread(upgrade, database_url)
        await refuse_without_accounts(settings, database_url)

        url = url_of(web_socket)
        environment = {
            "SEESAE_HOME": str(settings.home),
            "SEESAE_ARTIFACTS": str(settings.artifacts),
            "SEESAE_DEVICE": settings.device,
            "SEESAE_BACKEND": settings.backend,
            "SEESAE_DATABASE_URL": database_url,
            "SEESAE_HOST": settings.host,
            "SEESAE_PORT": str(web_socket.getsockname()[1]),
        }
        if settings.inference_url is None:
            given = settings.inference_secret
            environment["SEESAE_INFERENCE_URL"] = url_of(inference_socket)
            environment["SEESAE_INFERENCE_SECRET"] = given.get_secret_value() if given else secrets.token_urlsafe(32)
        web, *further = web_children(
            number_of_web_processes(settings), web_socket, environment, settings.home / "metrics", lock.descriptor
        )
        first, later = [web], [ChildSpec("worker", ("worker",), environment, (lock.descriptor,)), *further]
        if settings.inference_url is None:  # else it runs elsewhere
            first.append(_inference_child(inference_socket, environment, lock))

        loaded = asyncio.Event()
        children = [(spec, None) for spec in first] + [(spec, loaded) for spec in later]
        logs = settings.home / "logs"
        async with _kept_running([(Child(spec, logs, on_restart=notify), after) for spec, after in children]):
            await _until_up(url, logs / "web.log", notify, stop)
            lock.announce(url)
            asyncio.get_running_loop().call_later(_LATER_SECONDS, loaded.set)
            async with _preloading_told(environment, notify, loaded):
                yield Site(url, database_url, settings.inference_url or environment["SEESAE_INFERENCE_URL"])


@asynccontextmanager
async def _preloading_told(
    environment: Mapping[str, str], notify: Notify, loaded: asyncio.Event
) -> AsyncIterator[None]:
    """Say meanwhile what our own inference process loads; one that runs elsewhere may have been up for days."""
    if "SEESAE_INFERENCE_URL" not in environment:
        loaded.set()
        yield
        return
    url, secret = environment["SEESAE_INFERENCE_URL"], environment["SEESAE_INFERENCE_SECRET"]
    telling = asyncio.create_task(tell_preloading(url, secret, notify), name="preloading")
    telling.add_done_callback(lambda told: None if told.cancelled() else loaded.set())
    try:
        yield
    finally:
        telling.cancel()
        await asyncio.wait({telling})


def _inference_child(listening: socket.socket, environment: dict[str, str], lock: InstanceLock) -> ChildSpec:
    descriptor = listening.fileno()
    return ChildSpec("inference", ("inference", "--fd", str(descriptor)), environment, (descriptor, lock.descriptor))


@asynccontextmanager
async def _kept_running(children: Sequence[tuple[Child, asyncio.Event | None]]) -> AsyncIterator[None]:
    """Keep the children running; at the end stop all at once and wait for them.

    One with an event starts once it is set: what comes before needs the cores.
    """
    tasks = [asyncio.create_task(_run(child, event), name=child.spec.name) for child, event in children]
    try:
        yield
    finally:
        for child, _ in children:
            child.stop()
        await asyncio.gather(*tasks)


async def _run(child: Child, after: asyncio.Event | None) -> None:
    if after is not None:
        waits = [asyncio.create_task(wait) for wait in (after.wait(), child.stopped())]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
    await child.keep_running()


async def _until_up(url: str, log: Path, notify: Notify, stop: asyncio.Event) -> None:
    """Wait until the site answers; name its log now and then if it takes long.

    Raises:
        KeyboardInterrupt: `stop` was set.
    """
    patience = asyncio.get_running_loop().time() + _UP_SECONDS
    async with httpx.AsyncClient(trust_env=False, timeout=5.0) as client:
        while not stop.is_set():
            try:
                if (await client.get(f"{url}/healthz")).is_success:
                    return
            except httpx.TransportError:
                pass
            if asyncio.get_running_loop().time() > patience:
                notify(f"The site does not answer yet. Its log: {log}")
                patience += _UP_SECONDS
            await asyncio.sleep(0.05)
    raise KeyboardInterrupt


@asynccontextmanager
async def stop_signals() -> AsyncIterator[asyncio.Event]:
    """Yield an event that Ctrl-C, SIGTERM or a closed terminal sets; a second Ctrl-C interrupts as usual.

    What this process was started to ignore, it ignores: nohup is for sites that outlive their terminal.
    """
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    ending = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handled = [number for number in ending if signal.getsignal(number) is not signal.SIG_IGN]

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
