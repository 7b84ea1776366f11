"""The web processes of `seesae serve`: as many as the settings say, all accepting from one listening socket."""

import os
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path

from app.settings import Settings
from app.supervision.child_processes import ChildSpec
from app.web.process_metrics import FOLDER

MOST_BY_DEFAULT = 4
"""Each takes some 150 MB, and Postgres and the model need cores as well."""


def number_of_web_processes(settings: Settings) -> int:
    """Return the setting, else one per core that this process may use, up to `MOST_BY_DEFAULT`."""
    if settings.web_processes is not None:
        return settings.web_processes
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MOST_BY_DEFAULT)


def web_children(
    number: int, listening: socket.socket, environment: Mapping[str, str], metrics: Path, *inherited: int
) -> list[ChildSpec]:
    """Describe the web processes: `web`, `web-2`, …, which inherit the socket and these descriptors.

    The folder `metrics` is emptied: their counters begin at zero together.
    """
    shutil.rmtree(metrics, ignore_errors=True)
    metrics.mkdir(parents=True)
    descriptor = listening.fileno()
    return [
        ChildSpec(
            "web" if place == 1 else f"web-{place}",
            ("web", "--fd", str(descriptor)),
            {**environment, FOLDER: str(metrics)},
            (descriptor, *inherited),
        )
        for place in range(1, number + 1)
    ]
