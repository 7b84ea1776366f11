"""Load models in the background: a request waits for two seconds, and is then told how long loading takes."""

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from starlette.concurrency import run_in_threadpool

from app.errors import Loading
from app.inference.engine import ProbeEngine
from app.inference.model_thread import run_in_model_thread
from app.inference.scheduler import Scheduler
from app.services.inference_messages import SaeRef
from sae_core.errors import ArtifactError
from sae_core.files import write_json

PATIENCE = 2.0
"""Seconds that a request waits for its model before it is told that the model is being loaded."""

_TIMES = TypeAdapter(dict[str, float])


class LoadTimes:
    """Seconds that each model or SAE took to load the last time, by the hash of its weights, in a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seconds: dict[str, float] = {}
        with suppress(OSError, ValidationError):  # none yet, or damaged: they are measured again
            self._seconds = _TIMES.validate_json(path.read_bytes())

    def get(self, weights_sha256: str) -> float | None:
        """Return the seconds, None if they have not been measured."""
        return self._seconds.get(weights_sha256)

    def put(self, weights_sha256: str, seconds: float) -> None:
        """Keep the seconds; a disk that cannot hold them does not matter."""
        self._seconds[weights_sha256] = round(seconds, 3)
        with suppress(OSError, ArtifactError):
            write_json(self._path, self._seconds)


@dataclass(frozen=True, slots=True)
class _Load:
    sae: SaeRef
    what: str
    expected: float | None
    began: float
    task: asyncio.Task[None]

    def error(self) -> Loading:
        return Loading(self.what, time.monotonic() - self.began, self.expected)


class Loads:
    """Loads one model at a time, in a turn, and goes on with it when whoever asked has gone. For one event loop."""

    def __init__(self, engine: ProbeEngine, scheduler: Scheduler, times: LoadTimes) -> None:
        self._engine = engine
        self._scheduler = scheduler
        self._times = times
        self._load: _Load | None = None

    async def ensure(self, sae: SaeRef) -> None:
        """Return once `sae` and its model are in memory and nothing else is being loaded.

        Raises:
            Loading: that takes longer than `PATIENCE`; it goes on.
            Unavailable: the model or the SAE cannot be loaded.
            Busy: too many wait already.
        """
        until = time.monotonic() + PATIENCE
        while self._load is not None or not self._engine.has(sae):
            load = self._load = self._load or self._start(sae)
            await asyncio.wait({load.task}, timeout=until - time.monotonic())
            if not load.task.done():
                raise load.error()
            if self._load is load:
                self._load = None
            if load.sae == sae:
                load.task.result()
                return

    def _start(self, sae: SaeRef) -> _Load:
        if self._engine.has_model(sae):
            what, key = f"The SAE {sae.slug} is being loaded", sae.weights_sha256
        else:
            what, key = f"The model {sae.model.name} is being loaded", sae.model.weights_sha256
        task = asyncio.create_task(self._run(sae, key))
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # the next request raises it
        return _Load(sae, what, self._times.get(key), time.monotonic(), task)

    async def _run(self, sae: SaeRef, key: str) -> None:
        async with self._scheduler.take():
            began = time.monotonic()
            await run_in_model_thread(self._engine.load, sae)
            await run_in_threadpool(self._times.put, key, time.monotonic() - began)
