"""seesae serve, and the processes that it starts: web, worker, inference."""

import asyncio
import gc
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

from app.cli.options import Device, Fd, Host, Port
from app.cli.outcome import notify, report_user_errors, say

_SHORT_SPIN = "GOMP_SPINCOUNT", "5000"
"""For the threads of PyTorch, before it is imported: they wait for more work by spinning, by default for milliseconds
in which a site on the same cores waits for its turn to answer."""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    panel = "Processes"
    app.command(rich_help_panel=panel)(serve)
    app.command(rich_help_panel=panel)(web)
    app.command(rich_help_panel=panel)(worker)
    app.command(rich_help_panel=panel)(inference)


@report_user_errors
def serve(host: Host = None, port: Port = None, device: Device = None) -> None:
    """Serve the site: database, web, worker and inference, until Ctrl-C.

    The database is an embedded Postgres under SEESAE_HOME, or the one at SEESAE_DATABASE_URL.

    Example: seesae serve --port 8080
    """
    from app.supervision.supervisor import running_site, stop_signals

    settings = settings_with(host=host, port=port, device=device)

    async def run() -> None:
        async with stop_signals() as stop, running_site(settings, notify, stop) as site:
            say(f"SeeSAE is at {site.url} (Ctrl-C stops it)")
            notify(f"OpenAI's clients find its models at base_url={site.url}/v1")
            await stop.wait()
            notify("Stopping.")

    asyncio.run(run())


@report_user_errors
def web(host: Host = None, port: Port = None, fd: Fd = None) -> None:
    """Run the web process alone: pages, API and static files, without torch.

    Needs SEESAE_DATABASE_URL, and SEESAE_INFERENCE_URL and SEESAE_INFERENCE_SECRET for live probes.
    """
    with _without_garbage_collection():
        from app.main import create_app

    settings = settings_with(host=host, port=port)
    site = create_app(settings)
    asyncio.run(_refuse_without_accounts(settings))
    proxies = settings.trusted_proxies if settings.base_url else ""
    _serve_http(site, _socket(fd, settings.host, settings.port), settings.log_level, proxies=proxies)


@report_user_errors
def inference(host: Host = None, port: Port = None, fd: Fd = None) -> None:
    """Run the inference process alone: it answers the site's probes.

    Needs SEESAE_DATABASE_URL and SEESAE_INFERENCE_SECRET. Give the web process its address as SEESAE_INFERENCE_URL.

    Example: seesae inference --host 10.0.0.5 --port 8001
    """
    os.environ.setdefault(*_SHORT_SPIN)
    with _without_garbage_collection():
        from app.inference.server import create_app

    settings = settings_with(host=host, port=port)
    _serve_http(create_app(settings), _socket(fd, settings.host, settings.port), settings.log_level)


@report_user_errors
def worker(device: Device = None) -> None:
    """Run a worker alone: it takes runs (training, indexing, evaluation) from the queue.

    Needs SEESAE_DATABASE_URL. Start more workers, on more machines, to do more runs at a time. All need the same
    SEESAE_ARTIFACTS.
    """
    from app.artifacts import require_store
    from app.errors import UserError
    from app.logging import configure

    with _without_garbage_collection():
        # Loads torch now, not when the first run waits for it, and makes known what workers share.
        from app.pipeline import steps  # noqa: F401
        from app.runs.worker import work
    from app.supervision.parent_watchdog import exit_with_parent

    settings = settings_with(device=device)
    if settings.database_url is None:
        raise UserError("The worker needs a database: set SEESAE_DATABASE_URL, or use seesae serve, which has one.")
    require_store(settings)
    configure(settings.log_level)
    exit_with_parent()
    asyncio.run(work(settings, settings.database_url))


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Import in a sixth less time; later collections pass over what modules made, too, which stays."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


async def _refuse_without_accounts(settings: Any) -> None:
    from app.services.first_account import refuse_without_accounts

    await refuse_without_accounts(settings, settings.database_url)


def settings_with(**options: Any) -> Any:
    """Return the settings, where options given on the command line replace the environment's."""
    from pydantic import ValidationError

    from app.settings import Settings, get_settings, message_of

    given = {name: value for name, value in options.items() if value is not None}
    try:
        return Settings(**{**dict(get_settings()), **given})
    except ValidationError as error:
        first = error.errors()[0]
        raise typer.BadParameter(f"{message_of(first)}.", param_hint=f"--{first['loc'][0]}") from None


def _socket(fd: int | None, host: str, port: int) -> socket.socket:
    """Return the socket inherited from the supervisor, or a new one."""
    from app.supervision.sockets import listen, url_of

    if fd is not None:
        return socket.socket(fileno=fd)
    listening = listen(host, port, on_taken=lambda taken: notify(f"Port {taken} is taken; trying the next."))
    say(f"Listening at {url_of(listening)}")
    return listening


def _serve_http(app: Any, listening: socket.socket, log_level: str, *, proxies: str = "") -> None:
    """Serve an ASGI application on a socket until told to stop; `proxies` say whose requests they pass on."""
    import uvicorn

    from app.logging import configure
    from app.supervision.parent_watchdog import exit_with_parent

    configure(log_level)
    exit_with_parent()
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,  # the application logs requests itself, without what people typed
        server_header=False,
        proxy_headers=bool(proxies),
        forwarded_allow_ips=proxies,
        timeout_graceful_shutdown=3,  # a page that follows a run keeps its connection open for ever
        backlog=1,
    )
    _server(config).run(sockets=[listening])


def _server(config: Any) -> Any:
    """Return a server that takes one connection at a time from its socket, which other processes may share.

    asyncio takes as many at once as the socket has waiting, up to the server's backlog: the process that wakes first
    would serve all who came together, and the others none.
    """
    import uvicorn

    from app.supervision.sockets import BACKLOG

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            for listening in sockets or ():
                listening.listen(BACKLOG)  # asyncio made the number that may wait that of its backlog, too

    return Server(config)
