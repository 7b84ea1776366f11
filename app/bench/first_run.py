"""Benchmark of the first run: `seesae demo` from an empty home to its first feature page, then `seesae serve`.

Each runs as a person runs it, in a home of its own that is removed afterwards. Packages that this home has fetched
before are linked there, so that the network is not measured; everything else is made anew.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx

from app.bench.bench_inputs import Notify
from app.errors import UserError
from app.queries.runs import Stage
from app.runs.time_left import forecast
from app.settings import Settings
from app.supervision.instance_lock import read_lock_info
from sae_core.files import require_free_space

_LOOK_SECONDS = 0.1
_DEMO_SECONDS = 3600
_SERVE_SECONDS = 120
_BYTES = 2_500_000_000
"""Upper bound of what the demo writes."""
_TEXT = "The capital of France is"


def run(settings: Settings, options: Sequence[str], notify: Notify) -> dict[str, Any]:
    """Do the demo in a home of its own, and then serve it.

    Args:
        settings: whose home has packages, and room on its disk.
        options: of `seesae demo`.
        notify: told what goes on.

    Raises:
        UserError: the demo or the site failed; its last line says why.
        ArtifactError: the disk is too small.
    """
    settings.home.mkdir(parents=True, exist_ok=True)
    require_free_space(settings.home, _BYTES, "The demo")
    with TemporaryDirectory(prefix=".first-run-", dir=settings.home) as folder:
        home = Path(folder)
        link_packages(settings.home / "cache", home / "cache")
        return run_in(home, settings.device, options, notify)


def run_in(home: Path, device: str, options: Sequence[str], notify: Notify) -> dict[str, Any]:
    """Do the demo in a home that has nothing but packages, serve it again, and leave the home as it is then.

    Raises:
        UserError: as `run`.
    """
    notify("Doing the demo in an empty home; this takes minutes")
    figures = _demo(home, device, options)
    notify(f"First feature page after {figures['feature_page_s']} s; serving it again")
    return {**figures, **_serve(home, device, figures["sae"])}


def link_packages(source: Path, target: Path) -> None:
    """Link the packages of one folder into another, which is made."""
    target.mkdir()
    for wheel in source.glob("*.whl"):
        (target / wheel.name).symlink_to(wheel)


def _demo(home: Path, device: str, options: Sequence[str]) -> dict[str, Any]:
    with _started(home, device, "demo", *options, "--port", "0", "--json") as process, _site(home, process) as site:
        began, foreseen = process.began, list[float]()

        def has_features() -> bool:
            if not foreseen and (left := _seconds_to_features(site)) is not None:
                foreseen.append(time.monotonic() - began + left)
            return _has_features(site)

        _until(process, _DEMO_SECONDS, has_features)
        page_s = time.monotonic() - began
        assert process.running.stdout is not None
        line = process.running.stdout.readline()
        if not line.strip():
            raise process.failure()
        result = json.loads(line)
    stages = {name: round(seconds, 2) for name, seconds in result["seconds"].items()}
    return {
        "sae": result["sae"],
        "tokens": result["tokens"],
        "feature_page_s": round(page_s, 1),
        "foreseen_s": round(foreseen[0], 1) if foreseen else None,
        "foreseen_share": round(foreseen[0] / page_s, 3) if foreseen else None,
        "explained_variance": round(result["explained_variance"], 4),
        "l0": round(result["l0"], 2),
        "dead_percent": round(100 * result["dead_fraction"], 3),
        "map_s": stages.get("map"),
        "stages_s": stages,
    }


def _seconds_to_features(site: httpx.Client) -> float | None:
    """Return what the run's page says; None before it can say anything."""
    runs = site.get("/api/v1/runs").json()["runs"]
    found = forecast([Stage(**stage) for stage in runs[0]["stages"]]) if runs else None
    return found.features if found else None


def _has_features(site: httpx.Client) -> bool:
    saes = [sae for sae in site.get("/api/v1/saes").json()["saes"] if sae["index"]]
    return bool(saes) and site.get(f"/saes/{saes[0]['slug']}/features/0").is_success


def _serve(home: Path, device: str, sae: str) -> dict[str, Any]:
    with _started(home, device, "serve", "--port", "0") as process, _site(home, process) as site:
        _until(process, _SERVE_SECONDS, lambda: site.get("/").is_success)
        page = time.monotonic()
        ask = {"text": _TEXT}
        _until(process, _SERVE_SECONDS, lambda: site.post(f"/api/v1/saes/{sae}/probe", json=ask).is_success)
        probe = time.monotonic()
    return {
        "site_s": round(page - process.began, 2),
        "first_probe_s": round(probe - page, 2),
        "probed_s": round(probe - process.began, 2),
    }


class _Process:
    """A command that runs, with what it says on standard error in a file."""

    def __init__(self, running: "subprocess.Popen[str]", log: Path) -> None:
        self.running, self.log, self.began = running, log, time.monotonic()

    def failure(self) -> UserError:
        """Return the error of a command that has ended too early."""
        said = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return UserError(f"The first run failed: {said[-1] if said else 'it said nothing'}")


@contextmanager
def _started(home: Path, device: str, *arguments: str) -> Iterator[_Process]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SEESAE_")}
    environment |= {"SEESAE_HOME": str(home), "SEESAE_DEVICE": device}
    log = home / f"{arguments[0]}.log"
    with log.open("w") as errors:
        running = subprocess.Popen(  # noqa: S603 - our own command line
            [sys.executable, "-m", "app.cli", *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    try:
        yield _Process(running, log)
    finally:
        running.terminate()
        running.communicate(timeout=60)


@contextmanager
def _site(home: Path, process: _Process) -> Iterator[httpx.Client]:
    """Wait until the site of a process is up, and yield a client of it."""

    def url() -> str | None:
        holder = read_lock_info(home)
        return None if holder is None or holder.pid != process.running.pid else holder.url

    found = _until(process, _SERVE_SECONDS, url)
    with httpx.Client(base_url=found, trust_env=False, timeout=60) as client:
        yield client


def _until(process: _Process, seconds: float, done: Callable[[], Any]) -> Any:
    """Ask again and again until the answer is true, and return it.

    Raises:
        UserError: the process has ended, or it took too long.
    """
    patience = time.monotonic() + seconds
    while not (found := done()):
        if process.running.poll() is not None:
            raise process.failure()
        if time.monotonic() > patience:
            raise UserError(f"The first run took longer than {seconds:.0f} s. Its log ends: {process.failure()}")
        time.sleep(_LOOK_SECONDS)
    return found
