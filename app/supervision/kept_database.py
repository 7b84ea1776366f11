"""The database of a supervisor or of a command that runs alone: an embedded Postgres that ends is started again."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager, suppress

import psycopg

from app.errors import UserError
from app.settings import Settings
from app.supervision.embedded_postgres import database
from app.supervision.postgres_server import PostgresServer

Notify = Callable[[str], None]
"""Shows one line to the user at the terminal."""

_LOOK_SECONDS = 2.0


@asynccontextmanager
async def kept_database(settings: Settings, notify: Notify, stop: asyncio.Event) -> AsyncIterator[str]:
    """Yield the URL of the database that the settings name, or of the embedded one, which is restarted if it ends.

    Raises:
        KeyboardInterrupt: `stop` was set before it was up.
    """
    hold = ExitStack()
    keeper = None
    try:
        url = await _open(hold, settings, stop)
        if url is None:
            raise KeyboardInterrupt
        if settings.database_url is None:
            keeper = asyncio.create_task(_keep_running(settings, hold, notify, stop), name="postgres")
        yield url
    finally:
        if keeper is not None:
            keeper.cancel()
            await asyncio.wait({keeper})
        await asyncio.to_thread(hold.close)


async def _open(hold: ExitStack, settings: Settings, stop: asyncio.Event) -> str | None:
    """Open the database in a thread, because a server that recovers takes its time; None if `stop` was set first."""
    give_up = threading.Event()
    context = database(settings.home, settings.database_url, give_up)
    opening = asyncio.create_task(asyncio.to_thread(hold.enter_context, context))
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({opening, stopping}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        stopping.cancel()
        give_up.set()
        await asyncio.wait({opening})  # what it opened is in `hold` then
        opening.exception()  # where nobody asks for its result
    return None if stop.is_set() else opening.result()


async def _keep_running(settings: Settings, hold: ExitStack, notify: Notify, stop: asyncio.Event) -> None:
    """Check regularly that Postgres runs, and start it if it does not."""
    server = PostgresServer(settings.home.resolve() / "postgres")
    while not stop.is_set():
        await asyncio.sleep(_LOOK_SECONDS)
        if server.postmaster() is None:  # one that is only slow to answer is left alone
            notify("The database has ended; starting it again.")
            await asyncio.to_thread(hold.close)
            with suppress(UserError, psycopg.Error):  # its old processes may still be ending: try again
                await _open(hold, settings, stop)
