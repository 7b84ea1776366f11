"""The embedded server, with owners that end in different ways."""

import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.database_url import libpq_url
from app.errors import UserError
from app.supervision.embedded_postgres import check, database, embedded_postgres
from tests.conftest import temporary_home


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """One folder for most of these tests: each leaves its server stopped, and initialising takes seconds."""
    with temporary_home() as folder:
        yield folder


@pytest.fixture
def fresh_home() -> Iterator[Path]:
    with temporary_home() as folder:
        yield folder


OWNER = """
import sys
from pathlib import Path
from app.supervision.embedded_postgres import embedded_postgres
with embedded_postgres(Path(sys.argv[1])) as url:
    print(url, flush=True)
    sys.stdin.read()
"""


SIGNS = ["$(touch PWNED)", "`touch PWNED`", *" '\"&;|<>*?!#%~=,:@+\\é", "%41", "%(x)s", "-D", "\u2028"]
HOMES = st.lists(
    st.sampled_from(SIGNS) | st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/."),
    min_size=3,
    max_size=12,
).map("".join)


@contextmanager
def owner(home: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run another process that holds the database open until its standard input ends; yield it and its URL."""
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout
        yield process, process.stdout.readline().strip()


def postmaster(home: Path) -> psutil.Process | None:
    pidfile = home / "postgres" / "postmaster.pid"
    try:
        return psutil.Process(int(pidfile.read_text().split()[0]))
    except (FileNotFoundError, psutil.NoSuchProcess):
        return None


def execute(url: str, statement: str) -> list[tuple[object, ...]]:
    with psycopg.connect(libpq_url(url), autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


def test_the_data_outlives_the_server(home: Path) -> None:
    with embedded_postgres(home) as url:
        execute(url, "CREATE TABLE kept_1 AS SELECT 42 AS answer")
        assert postmaster(home)
    assert postmaster(home) is None
    with embedded_postgres(home) as url:
        assert execute(url, "SELECT answer FROM kept_1") == [(42,)]


def test_the_server_of_a_killed_owner_is_shared(home: Path) -> None:
    with owner(home) as (process, url):
        execute(url, "CREATE TABLE kept_2 AS SELECT 42 AS answer")
        process.kill()
    before = postmaster(home)
    assert before
    with embedded_postgres(home) as url:
        assert postmaster(home) == before
        assert execute(url, "SELECT answer FROM kept_2") == [(42,)]
    assert postmaster(home) is None, "the owner that was killed must not keep the server alive"


def test_a_killed_server_recovers(home: Path) -> None:
    with owner(home) as (process, url):
        execute(url, "CREATE TABLE kept_3 AS SELECT 42 AS answer")
        server = postmaster(home)
        assert server
        server.kill()
        process.kill()
    assert (home / "postgres" / "postmaster.pid").exists()
    with embedded_postgres(home) as url:
        assert execute(url, "SELECT answer FROM kept_3") == [(42,)]


def test_a_server_left_behind_before_its_folder_was_renamed_is_named(fresh_home: Path) -> None:
    with owner(fresh_home / "before") as (process, _):
        process.kill()
    server = postmaster(fresh_home / "before")
    assert server
    renamed = (fresh_home / "before").rename(fresh_home / "after")
    with pytest.raises(UserError, match=rf"kill -INT {server.pid}$"), embedded_postgres(renamed):
        pass
    server.send_signal(signal.SIGINT)
    server.wait()
    with embedded_postgres(renamed) as url:
        assert execute(url, "SELECT 1") == [(1,)]


def test_a_pid_file_that_names_another_process_is_stale(home: Path) -> None:
    with embedded_postgres(home) as url:
        execute(url, "CREATE TABLE kept_4 AS SELECT 42 AS answer")
        pidfile = home / "postgres" / "postmaster.pid"
        lines = pidfile.read_text().splitlines()
    pidfile.write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n")
    with embedded_postgres(home) as url:
        assert execute(url, "SELECT answer FROM kept_4") == [(42,)]


def test_the_server_runs_until_its_last_user_leaves(home: Path) -> None:
    with embedded_postgres(home) as url:
        with owner(home) as (process, theirs):
            assert theirs == url
            process.communicate()
            assert process.returncode == 0
        assert execute(url, "SELECT 1") == [(1,)]
    assert postmaster(home) is None


def test_an_interrupted_owner_stops_its_server(home: Path) -> None:
    with owner(home) as (process, _):
        process.send_signal(signal.SIGINT)
    assert postmaster(home) is None


def test_a_locale_that_is_not_installed_does_not_matter(fresh_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "xx_XX.UTF-8")
    with embedded_postgres(fresh_home) as url:
        assert execute(url, "SELECT lower('É')") == [("é",)]
    assert os.environ["LC_ALL"] == "xx_XX.UTF-8"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PGSERVICE", "nosuch"),
        ("PGTZ", "nosuch"),
        ("PGDATESTYLE", "nosuch"),
        ("PGSSLMODE", "foo"),
        ("PGCHANNELBINDING", "require"),
        ("PGTARGETSESSIONATTRS", "standby"),
        ("PGCONNECT_TIMEOUT", "abc"),
        ("PGOPTIONS", "-c search_path=foo"),
    ],
)
def test_variables_about_another_server_do_not_matter(
    home: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with embedded_postgres(home) as url:
        assert execute(url, "SHOW search_path") == [('"$user", public',)]


def test_data_of_another_version_is_refused(fresh_home: Path) -> None:
    (fresh_home / "postgres").mkdir()
    (fresh_home / "postgres" / "PG_VERSION").write_text("12\n")
    with pytest.raises(UserError, match=r"does not start.*12"), embedded_postgres(fresh_home):
        pass


def test_a_server_that_does_not_start_reports_the_reason(home: Path) -> None:
    with embedded_postgres(home):
        pass
    configuration = home / "postgres" / "postgresql.conf"
    works = configuration.read_text()
    configuration.write_text(works + "shared_buffers = 'plenty'\n")
    with pytest.raises(UserError, match="does not start: configuration file") as caught, embedded_postgres(home):
        pass
    assert "\n" not in str(caught.value)
    configuration.write_text(works)


def test_a_folder_with_other_files_is_left_as_it_is(fresh_home: Path) -> None:
    (fresh_home / "postgres").mkdir()
    (fresh_home / "postgres" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match=r"does not start: .*not empty"), embedded_postgres(fresh_home):
        pass
    assert (fresh_home / "postgres" / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("x$(touch PWNED)y `touch PWNED` 'a' \"b\" & ; | % %41 + ?#@:é\\\\", id="in-its-folder"),
        pytest.param("a,b", id="comma"),
        pytest.param("long " + 120 * "x", id="too-long"),
    ],
)
def test_any_path_of_a_home_starts_without_a_shell_and_lets_nobody_else_in(fresh_home: Path, name: str) -> None:
    home = fresh_home / name
    with embedded_postgres(home) as url:
        (found,) = execute(url, "SELECT current_database(), current_setting('unix_socket_directories')")
        sockets = Path(str(found[1]).strip('"').replace('""', '"'))
        mode = sockets.stat().st_mode
        assert stat.S_IMODE(mode) == 0o700
        assert postmaster(home)
        with owner(home) as (_, theirs):  # another process
            assert theirs == url
    assert postmaster(home) is None
    assert sockets == home / "postgres" or not sockets.exists()
    assert not list(fresh_home.rglob("PWNED")) and not Path("PWNED").exists()


@pytest.mark.slow
@given(name=HOMES)
@settings(max_examples=5, deadline=None)
def test_any_home_starts_and_runs_no_command(name: str) -> None:
    with temporary_home() as folder:
        home = folder / name
        with embedded_postgres(home) as url:
            assert execute(url, "SELECT 1") == [(1,)]
        assert postmaster(home) is None
        assert [path.name for path in folder.iterdir()] == [name]
        assert not list(home.rglob("PWNED"))
    assert not Path("PWNED").exists()


def test_folders_above_the_data_are_not_opened_for_reading(fresh_home: Path) -> None:
    home = fresh_home / "private" / "home"
    home.parent.mkdir(mode=0o700)
    with embedded_postgres(home):
        assert not stat.S_IMODE(home.parent.stat().st_mode) & (stat.S_IRGRP | stat.S_IROTH | stat.S_IWOTH)


def test_a_path_with_a_line_break_is_refused(fresh_home: Path) -> None:
    with pytest.raises(UserError, match="line break"), embedded_postgres(fresh_home / "a\nb"):
        pass


def test_a_database_that_cannot_be_created_leaves_no_server(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.supervision.embedded_postgres.DATABASE", "not a name")
    with pytest.raises(psycopg.errors.SyntaxError), embedded_postgres(home):
        pass
    assert postmaster(home) is None


class Interrupted(threading.Event):
    """As where Ctrl-C interrupts the wait."""

    def wait(self, timeout: float | None = None) -> bool:
        raise KeyboardInterrupt


@pytest.mark.parametrize("interrupted", [False, True])
@pytest.mark.parametrize("recovers", [False, True])
def test_a_start_that_is_given_up_leaves_no_server(home: Path, interrupted: bool, recovers: bool) -> None:
    give_up = Interrupted() if interrupted else threading.Event()
    give_up.set()
    if recovers:  # the server of a process that was killed meanwhile
        with owner(home) as (process, _):
            process.kill()
        pidfile = home / "postgres" / "postmaster.pid"
        pidfile.write_text(pidfile.read_text().replace("ready", "starting"))
    with pytest.raises((UserError, KeyboardInterrupt)) as told, embedded_postgres(home, give_up):
        pass
    assert interrupted or "it was stopped before it was ready" in str(told.value)
    data = str(home.resolve() / "postgres")
    assert not [process for process in psutil.process_iter(["cmdline"]) if data in (process.info["cmdline"] or ())]
    with embedded_postgres(home) as url:
        assert execute(url, "SELECT 1") == [(1,)]


def test_a_home_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    with pytest.raises(UserError, match="SEESAE_HOME"), embedded_postgres(tmp_path / "home"):
        pass


def test_a_given_database_is_used_as_it_is(database_url: str, tmp_path: Path) -> None:
    with database(tmp_path, database_url.replace("+psycopg", "")) as url:
        assert url == libpq_url(database_url)
    assert not list(tmp_path.iterdir())


def test_a_database_out_of_reach_is_one_line_without_its_password() -> None:
    with pytest.raises(UserError, match=r"127.0.0.1:1/sae.*SEESAE_DATABASE_URL") as caught:
        check("postgresql://ada:hunter2@127.0.0.1:1/sae")
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)
