"""A run as its work sees it: stages, progress, and when to stop.

    thread of the work                     event loop
    progress(done, total) ─► counts ─► `_write_regularly`, twice per second ─► the run's row ─► pages, terminals
    RunInterrupted        ◄─ `_interrupted` ◄─ the row says "cancelled", or this process is stopping

`sae_core` is synchronous and reports by calling `progress` from its own thread. Reporting changes counts in memory, so
it costs the work nothing. To stop the work, `progress` raises. The work leaves files that it can continue from, so an
interrupted run loses a few seconds at most.
"""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import ParamSpec, Protocol, Self, TypeVar

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

from app.errors import Conflict, UserError
from app.object_store import ObjectStore
from app.queries import runs
from app.queries.runs import MetricPoint, RunView, Stage
from app.runs.spec import StageSpec
from app.runs.threads import in_thread
from app.storage import mirror
from sae_core.locks import FolderLock

WRITE_SECONDS = 0.5

P = ParamSpec("P")
R = TypeVar("R")


class RunInterrupted(Exception):
    """The work was stopped before its end, and can continue later from what it left."""


class RunCancelled(RunInterrupted):
    """Somebody cancelled the run: no worker continues it."""


class RunLocked(Conflict):
    """Another process is working on the run."""


class RunNotUnderstood(Conflict):
    """Another version of SeeSAE submitted the run: this one does not know its kind, or not its parameters."""


class StagesListener(Protocol):
    """Receives the stages as they are written: the terminal of a run in this process."""

    def show(self, stages: Sequence[Stage]) -> None:
        """Show the stages."""


class RunContext:
    """One attempt at a run. Use as an async context manager; every stage named in the run's row can be entered."""

    def __init__(
        self,
        run: RunView,
        sessions: async_sessionmaker[AsyncSession],
        *,
        listener: StagesListener | None = None,
        store: ObjectStore | None = None,
    ) -> None:
        self.run_id = run.id
        self.created_by = run.created_by
        self.params = run.params
        self.sessions = sessions
        self._store = store
        self._listener = listener
        # Stages that an earlier attempt did not finish wait again, with their counts and seconds.
        self._stages = {
            stage.name: stage if stage.state == "done" else replace(stage, state="waiting") for stage in run.stages
        }
        self._lock = threading.Lock()
        self._running: dict[str, StageProgress] = {}
        self._metrics: list[MetricPoint] = []
        self._interrupted = threading.Event()
        self._cancelled = False
        self._write_error: Exception | None = None
        self._writing = asyncio.Lock()
        self._closing = asyncio.Event()
        self._writer: asyncio.Task[None] | None = None
        self._closed = AsyncExitStack()
        self._hold: mirror.Hold = mirror.hold_nothing

    async def __aenter__(self) -> Self:
        self._hold = await self._closed.enter_async_context(mirror.holding(self.sessions, self._store))
        self._writer = asyncio.create_task(self._write_regularly(), name=f"progress of run {self.run_id}")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._writer is not None
        async with self._closed:
            self._closing.set()
            await self._writer
            if self._write_error is None:
                await self._write()

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds spent on each stage, over all attempts."""
        return {stage.name: round(stage.seconds, 2) for stage in self._stages.values()}

    def interrupt(self) -> None:
        """Make the next `progress` call raise `RunInterrupted`; safe from any thread."""
        self._interrupted.set()

    def title_of(self, name: str) -> str:
        """Return the title of a stage."""
        return self._stages[name].title

    def has_stage(self, name: str) -> bool:
        """False for a stage that the version which submitted the run did not have."""
        return name in self._stages

    @asynccontextmanager
    async def stage(self, name: str, *, record: bool = False) -> AsyncIterator["StageProgress"]:
        """Enter a stage. A stage that is done already may be entered again: its seconds add up.

        Args:
            name: one of the run's stages.
            record: keep the metrics given to `progress`, by the number done, as the curves of the run.
        """
        self.raise_if_interrupted()
        before = self._stages[name]
        progress = StageProgress(self, name, before.seconds, record=record)
        self._change(name, state="running", started_at=before.started_at or datetime.now(UTC))
        self._running[name] = progress
        await self._write()
        try:
            yield progress
        except (RunInterrupted, asyncio.CancelledError):
            self._change(name, state="waiting", seconds=progress.seconds)
            raise
        except BaseException:
            self._change(name, state="failed", seconds=progress.seconds)
            raise
        finally:
            del self._running[name]
        self._change(name, state="done", done=self._stages[name].total, seconds=progress.seconds)
        await self._write()

    async def in_thread(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call synchronous work in a thread and await it; if this task is cancelled, the work is stopped first."""
        try:
            return await in_thread(partial(function, *args, **kwargs), self.interrupt)
        except RunInterrupted:
            self.raise_if_interrupted()
            raise

    @asynccontextmanager
    async def lock(self, stage: str, folder: Path, what: str) -> AsyncIterator[None]:
        """Hold the lock of an artifact folder; the stage's title says for whom it waits.

        Of an object store, the folder is held against other machines, too. It is pulled first, and pushed at the end:
        also what a run made that is stopped or fails, since another machine may continue it.

        Args:
            stage: the stage that makes the folder.
            folder: of the artifact.
            what: the artifact in words, such as "these activations".

        Raises:
            ArtifactError: the file system has no locks.
            StoreAway, UserError: as `ObjectStore`.
        """
        lock = FolderLock(folder, f"run {self.run_id}")
        async with AsyncExitStack() as held:
            held.callback(lock.release)
            with self.waiting(stage, what) as tell:
                await self.in_thread(lock.acquire, tell)
                await held.enter_async_context(self._hold(folder, tell))
            # Under the lock, so that whoever removes folders under it sees who uses them.
            async with self.sessions.begin() as session:
                await runs.note_use(session, self.run_id, f"{folder.parent.name}/{folder.name}")
            await self._pull(folder)
            try:
                yield
            except (Exception, asyncio.CancelledError):
                if self._store is not None:
                    with suppress(UserError, OSError):  # what the run ended with says more
                        await asyncio.to_thread(self._store.push, folder)
                raise
            await self.push(folder)

    async def push(self, folder: Path) -> None:
        """Give an object store what a folder has, as before a row says that it is there; raises as `lock`."""
        if self._store is not None:
            await self.in_thread(self._store.push, folder, self.raise_if_interrupted)

    async def _pull(self, folder: Path) -> None:
        if self._store is not None:
            await self.in_thread(self._store.pull, folder, self.raise_if_interrupted)

    @contextmanager
    def waiting(self, stage: str, what: str) -> Iterator[Callable[[str], None]]:
        """Yield a function that says in the stage's title who makes `what`; it raises if the work has to stop."""
        title = self._stages[stage].title

        def tell(holder: str) -> None:
            self.raise_if_interrupted()
            self.retitle(stage, f"{title}: waits for {holder or 'another process'}, which makes {what}")

        try:
            yield tell
        finally:
            self.retitle(stage, title)

    def retitle(self, name: str, title: str) -> None:
        """Give a stage a title that says more than was known when the run was submitted."""
        self._change(name, title=title)

    def expect(self, seconds: Mapping[str, float]) -> None:
        """Say how long stages will take in all; names of stages that the run does not have are left out."""
        for name in seconds.keys() & self._stages.keys():
            if self._stages[name].state != "done":
                self._change(name, expected=seconds[name])

    @contextmanager
    def about(self, subject: str, stages: Sequence[StageSpec]) -> Iterator[None]:
        """Say in the titles of stages what they are about now, as a run does that enters them once per SAE."""
        try:
            for stage in stages:  # the title as it is declared: the row's may have a subject, if an attempt was killed
                self.retitle(stage.name, f"{stage.title}: {subject}" if subject else stage.title)
            yield
        finally:
            for stage in stages:
                self.retitle(stage.name, stage.title)

    def report(self, name: str, done: int, total: int, seconds: float, metrics: Mapping[str, float] | None) -> None:
        """Store a report of the work's thread; `StageProgress` calls it."""
        self.raise_if_interrupted()
        with self._lock:
            self._stages[name] = replace(self._stages[name], done=done, total=total, seconds=seconds)
            if metrics is not None:
                self._metrics.append(MetricPoint(step=done, values=dict(metrics)))

    def raise_if_interrupted(self) -> None:
        """Raise where the work has to stop; safe from any thread.

        Raises:
            RunInterrupted, RunCancelled: somebody stopped it.
            Exception: the run's row could not be written.
        """
        if self._interrupted.is_set():
            if self._write_error is not None:
                raise self._write_error
            raise RunCancelled if self._cancelled else RunInterrupted

    def _change(self, name: str, **changes: object) -> None:
        with self._lock:
            self._stages[name] = replace(self._stages[name], **changes)  # type: ignore[arg-type]

    async def _write_regularly(self) -> None:
        try:
            while not self._closing.is_set():
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._closing.wait(), WRITE_SECONDS)
                await self._write()
        except Exception as error:  # raised again in the work's own thread and task
            self._write_error = error
            self._interrupted.set()

    async def _write(self) -> None:
        """Write stages and new measurements; interrupt the work if the run was cancelled."""
        async with self._writing:
            with self._lock:
                for name, progress in self._running.items():  # also of one that reports nothing
                    self._stages[name] = replace(self._stages[name], seconds=progress.seconds)
                stages, points = tuple(self._stages.values()), self._metrics
                self._metrics = []
            if self._listener is not None:
                self._listener.show(stages)
            async with self.sessions.begin() as session:
                still_running = await runs.update_progress(session, self.run_id, stages)
                if points:
                    await runs.append_metrics(session, self.run_id, points)
        if not still_running:
            self._cancelled = True
            self._interrupted.set()


class StageProgress:
    """The `sae_core.progress.Progress` of one stage."""

    def __init__(self, context: RunContext, name: str, seconds_before: float, *, record: bool) -> None:
        self._context = context
        self._name = name
        self._seconds_before = seconds_before
        self._record = record
        self._entered = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds spent on this stage so far, over all attempts."""
        return self._seconds_before + time.monotonic() - self._entered

    def __call__(self, done: int, total: int, metrics: Mapping[str, float] | None = None, /) -> None:
        """Report progress; raise `RunInterrupted` if the work has to stop."""
        self._context.report(self._name, done, total, self.seconds, metrics if self._record else None)
