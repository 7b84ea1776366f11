"""Index one corpus by one worker, and at the same time another copy by two that share it; docs/scale.md.

    python benchmarks/shared_index.py FOLDER [--tokens N] [--hook HOOK] [--json FILE]

FOLDER is made, and holds databases, artifacts, and a home for each worker. Workers have one thread each and are
processes of their own, as on machines of their own. Both indexes are made at the same time, so that both meet the same
load: the scheduler gives each of the three workers the same share of a busy machine. Prints the seconds of each stage,
from the runs themselves, and whether the bytes are the same.
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
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import psycopg
from report import machine

from app.database_url import libpq_url
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
    trained = args.folder / "trained"
    if not (trained / "artifacts" / "saes" / NAME).exists():
        train(trained, args.hook, args.width)
    with ThreadPoolExecutor() as pool:
        ended = {}
        for workers in (1, 2):
            own = args.folder / f"by-{workers}"
            shutil.rmtree(own, ignore_errors=True)
            subprocess.run(["cp", "-a", str(trained), str(own)], check=True)  # noqa: S607 - keeps the owner of files
            for name in ("activations", "indexes"):
                shutil.rmtree(own / "artifacts" / name, ignore_errors=True)
            ended[workers] = pool.submit(index, own, workers, args.tokens)
        alone, together = (ended[workers].result() for workers in (1, 2))
    found["same_bytes"] = alone.pop("sha256") == together.pop("sha256")
    found |= {"one_worker": alone, "two_workers": together}
    found["speedup"] = {name: round(alone["seconds"][name] / together["seconds"][name], 2) for name in alone["seconds"]}
    print(json.dumps(found, indent=2))
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


@contextmanager
def served(folder: Path) -> Iterator[dict[str, str]]:
    """The environment of commands whose database and artifacts are in `folder`."""
    with embedded_postgres(folder / "database") as url:
        yield {
            **{name: value for name, value in os.environ.items() if not name.startswith("SEESAE_")},
            "SEESAE_DATABASE_URL": url,
            "SEESAE_ARTIFACTS": str(folder / "artifacts"),
            "SEESAE_HOME": str(folder / "home"),
            "SEESAE_DEVICE": "cpu",
            "OMP_NUM_THREADS": "1",
        }


def train(folder: Path, hook: str, width: int) -> None:
    """Train the SAE; it need not be good."""
    with served(folder) as environment:
        seesae(environment, "db", "upgrade")
        training = ["--hook", hook, "--corpus", CORPUS, "--tokens", "16384", "--samples", "16384"]
        seesae(environment, "train", "--model", MODEL, *training, "--width", str(width), "--name", NAME)


def index(folder: Path, workers: int, tokens: int) -> dict[str, Any]:
    """Index by so many workers, from nothing but the SAE, until the statistics are there."""
    with served(folder) as environment, ExitStack() as stack:
        command = ["index", NAME, "--corpus", CORPUS, "--tokens", str(tokens), "--queue", "--json"]
        number = json.loads(seesae(environment, *command))["run"]
        processes = [stack.enter_context(worker(environment, folder / f"worker-{i}")) for i in range(workers)]
        stages: dict[str, Any] = {}
        with psycopg.connect(libpq_url(environment["SEESAE_DATABASE_URL"]), autocommit=True) as connection:
            while stages.get(STAGES[-1], {}).get("state") != "done":
                time.sleep(1)
                state, listed = connection.execute("SELECT state, stages FROM run WHERE id = %s", [number]).fetchone()
                assert state in ("queued", "running", "done"), state
                stages = {stage["name"]: stage for stage in listed}
        return {
            "seconds": {name: round(stages[name]["seconds"], 1) for name in STAGES},
            "cpu_seconds": [round(sum(process.cpu_times()[:2]), 1) for process in processes],
            "sha256": digest(folder / "artifacts"),
        }


@contextmanager
def worker(environment: dict[str, str], home: Path) -> Iterator[psutil.Process]:
    """A worker as on a machine of its own, with the packages that the first home has fetched."""
    shutil.copytree(Path(environment["SEESAE_HOME"]) / "cache", home / "cache")
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
