"""All benchmarks one after the other, each in a process of its own, and every target beside its figure."""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from app.bench.bench_inputs import Notify
from app.bench.targets import BENCHES, Result
from app.errors import UserError

NEED_DEMO = ("probe",)
"""Benchmarks of the SAE that `seesae demo` makes."""


def run(only: Sequence[str], notify: Notify) -> dict[str, Result | None]:
    """Run benchmarks; return the JSON of each by name, and None of one that failed. What they say is seen meanwhile.

    Args:
        only: names, or none for all.
        notify: told which one begins, and which failed.

    Raises:
        UserError: there is no benchmark of a name.
    """
    if unknown := [name for name in only if name not in BENCHES]:
        raise UserError(f"There is no benchmark {unknown[0]!r}. Choose from {', '.join(BENCHES)}.")
    chosen = [name for name in BENCHES if not only or name in only]
    results: dict[str, Result | None] = {}
    for number, name in enumerate(chosen, 1):
        notify(f"{number} of {len(chosen)}: seesae bench {' '.join(BENCHES[name])}")
        results[name] = _run("bench", *BENCHES[name]) if name not in NEED_DEMO or _has_demo(notify) else None
        if results[name] is None:
            notify(f"seesae bench {' '.join(BENCHES[name])} failed.")
    return results


def _has_demo(notify: Notify) -> bool:
    """Do the demo, which takes seconds if it is there; return whether it is."""
    notify("This one asks the demo's SAE: seesae demo --no-serve")
    return _run("demo", "--no-serve") is not None


def _run(*arguments: str) -> Mapping[str, Any] | None:
    command = [sys.executable, "-m", "app.cli", *arguments, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)  # noqa: S603 - our own command line
    if done.returncode:
        return None
    result: Mapping[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result
