"""Metrics of the web processes of one site: each counts into files of a folder that all of them share.

`seesae serve` names the folder in prometheus_client's own variable. A web process that was started alone counts in
memory.
"""

import os

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

FOLDER = "PROMETHEUS_MULTIPROC_DIR"


def process_metrics(registry: CollectorRegistry) -> str:
    """Return the sums over all web processes in Prometheus' text format; `registry` is this process' own."""
    if FOLDER not in os.environ:
        return generate_latest(registry).decode()
    together = CollectorRegistry()
    MultiProcessCollector(together)  # type: ignore[no-untyped-call]
    return generate_latest(together).decode()
