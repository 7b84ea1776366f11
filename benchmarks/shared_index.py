"""Index one corpus by one worker, then by two that share it; docs/scale.md.

    python benchmarks/shared_index.py FOLDER [--tokens N] [--hook HOOK] [--json FILE]

FOLDER is made, and holds a database, the artifacts, and a home for each worker. Workers have one thread each and are
processes of their own, as on two machines. Prints the seconds of each stage, from the run itself, the CPU seconds of
the workers, and whether the bytes are the same.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
from report import machine

from app.supervision.embedded_postgres import embedded_postgres

MODEL, CORPUS, NAME = "smollm2-135m", "wikipedia-summaries", "shared"
STAGES = ("activations", "encode", "statistics")


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokens", type=int, default=131_072)
    parser.add_argument("--hook", default="resid_post.9")
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"date": datetime.now(UTC).strftime("%Y-%m-%d"), "machine": machine()}
    found |= {"tokens": args.tokens, "hook": args.hook, "width": args.width}
    with embedded_postgres(args.folder / "database") as url:
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("SEESAE_")},
            "SEESAE_DATABASE_URL": url,
            "SEESAE_ARTIFACTS": str(args.folder / "artifacts"),
            "SEESAE_DEVICE": "cpu",
            "OMP_NUM_THREADS": "1",
        }
        home = {**environment, "SEESAE_HOME": str(args.folder / "home-1")}
        seesae(home, "db", "upgrade")
        training = ["--hook", args.hook, "--corpus", CORPUS, "--tokens", "16384", "--samples", "16384"]
        seesae(home, "train", "--model", MODEL, *training, "--width", str(args.width), "--name", NAME)
        for workers in (1, 2):
            found[f"{workers}_workers"] = index(args, environment, workers)
            print(json.dumps(found[f"{workers}_workers"]))
    alone, together = found["1_workers"], found["2_workers"]
    found["speedup"] = {
        name: round(alone["seconds"][name] / together["seconds"][name], 2) for name in (*STAGES, "wall")
    }
    found["same_bytes"] = alone.pop("sha256") == together.pop("sha256")
    print(json.dumps(found, indent=2))
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def index(args: argparse.Namespace, environment: dict[str, str], workers: int) -> dict[str, Any]:
    """Index by so many workers, from nothing but the SAE."""
    artifacts = args.folder / "artifacts"
    for name in ("activations", "indexes"):
        shutil.rmtree(artifacts / name, ignore_errors=True)
    own = {**environment, "SEESAE_HOME": str(args.folder / "home-1")}
    with ExitStack() as stack:
        processes = [
            stack.enter_context(worker(environment, args.folder / f"home-{number}")) for number in range(1, workers + 1)
        ]
        command = ["index", NAME, "--corpus", CORPUS, "--tokens", str(args.tokens), "--queue", "--json"]
        began = time.monotonic()
        number = json.loads(seesae(own, *command))["run"]
        while (run := json.loads(seesae(own, "runs", "show", str(number), "--json")))["state"] in ("queued", "running"):
            time.sleep(1)
        assert run["state"] == "done", run
        wall = time.monotonic() - began
        cpu = [sum(process.cpu_times()[:2]) for process in processes]
    return {
        "seconds": {**{name: run["result"]["seconds"][name] for name in STAGES}, "wall": round(wall, 1)},
        "cpu_seconds": [round(seconds, 1) for seconds in cpu],
        "sha256": digest(artifacts),
    }


@contextmanager
def worker(environment: dict[str, str], home: Path) -> Iterator[psutil.Process]:
    """A worker as on a machine of its own."""
    own = {**environment, "SEESAE_HOME": str(home), "SEESAE_MACHINE": home.name}
    process = subprocess.Popen([sys.executable, "-m", "app.cli", "worker"], env=own, stderr=subprocess.DEVNULL)
    try:
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def seesae(environment: dict[str, str], *arguments: str) -> str:
    """Run a command, and return what it prints."""
    command = [sys.executable, "-m", "app.cli", *arguments]
    return subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout


def digest(artifacts: Path) -> str:
    """Hash all activations and stores."""
    found = hashlib.sha256()
    for path in sorted(path for name in ("activations", "indexes") for path in (artifacts / name).rglob("*.*")):
        if path.is_file():
            found.update(f"{path.relative_to(artifacts)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return found.hexdigest()


if __name__ == "__main__":
    main()
