"""Work of a run that several workers share: the run calls, and workers that have no run to do answer.

    the run                                         a worker
    calls, by a job in the queue ─────────────────► takes the job, opens the same work from the same files
    makes shards that nobody has, until all are     makes shards that nobody has, until none is left, a run waits for
    there; then it puts them together               a worker, or this one has ended

Who makes a shard holds its advisory lock, which the database releases the moment that process dies. So nothing waits
for a worker that is killed, and a run that nobody helps is done by itself, in the same way. One process of a machine
works on a run, because it uses the whole machine.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import Any

import structlog

from app.queries import runs
from app.queries.sql import locks
from app.runs import jobs
from app.runs.context import RunContext, RunInterrupted
from app.runs.failures import INFRASTRUCTURE, explain, is_infrastructure
from app.runs.job_context import JobContext
from app.runs.stored_shards import StoredShards, make_stored
from app.runs.threads import in_thread
from sae_core.files import sha256_json
from sae_core.progress import Progress, silent
from sae_core.shards import MakeShards, ShardWork, help_make, make_shards

log = structlog.get_logger("worker")

CALL_SECONDS = 3.0
"""Between two looks whether a call still waits: a worker that answered took it out of the queue."""
_WATCH_SECONDS = 1.0

Work = Mapping[str, Any]
"""A shared work as JSON: `kind`, and what its opener needs. Files are named within the artifacts."""

_OPENERS: dict[str, Callable[[JobContext, Work], ShardWork]] = {}
_closed: set[str] = set()
"""Works that this process could not open, or failed at: it leaves them to others."""


def register_work(kind: str, opener: Callable[[JobContext, Work], ShardWork]) -> None:
    """Make a kind of shared work known; `opener` opens it in a worker that helps.

    Raises:
        ValueError: another has this name.
    """
    if _OPENERS.setdefault(kind, opener) is not opener:
        raise ValueError(f"two kinds of shared work are named {kind!r}")


@asynccontextmanager
async def shared(run: RunContext, ctx: JobContext, stage: str, work: Work) -> AsyncIterator[MakeShards]:
    """Share a work with workers that have no run to do; yield what makes its shards, with them.

    Workers are called when the first shard is taken: what they open has to be there then.
    """
    store = ctx.artifacts.store
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()
    async with _machine(ctx, run.run_id), locks.shard_locks(ctx.engine, _key(work)) as take:

        @contextmanager
        def take_and_call(shard: int) -> Iterator[bool]:
            loop.call_soon_threadsafe(begun.set)
            with take(shard) as is_mine:
                yield is_mine

        def make(shards: ShardWork, /, *, progress: Progress = silent) -> None:
            if store is None:
                make_shards(shards, take=take_and_call, progress=progress)
            else:
                make_stored(shards, store, take=take_and_call, progress=progress, check=run.raise_if_interrupted)

        calling = asyncio.create_task(_call(run, ctx, stage, work, begun), name=f"calls of run {run.run_id}")
        try:
            yield make
        finally:
            calling.cancel()
            await asyncio.wait({calling})
            with suppress(*INFRASTRUCTURE):  # a worker that takes the call finds nothing to do
                async with ctx.sessions.begin() as session:
                    await jobs.withdraw_call(session, run.run_id)


async def _call(run: RunContext, ctx: JobContext, stage: str, work: Work, begun: asyncio.Event) -> None:
    """Keep one call in the queue, and say in the stage's title how many have answered."""
    await begun.wait()
    title = run.title_of(stage)
    try:
        while True:
            with suppress(*INFRASTRUCTURE):
                async with ctx.sessions.begin() as session:
                    await jobs.call_for_help(session, run.run_id, work)
                    helpers = await runs.count_helpers(session, run.run_id)
                run.retitle(stage, f"{title}, on {helpers + 1} workers" if helpers else title)
            await asyncio.sleep(CALL_SECONDS)
    finally:
        run.retitle(stage, title)


async def help_run(ctx: JobContext, run_id: int, work: Work) -> None:
    """Make shards of a run that another process does, while there are any, and this process has nothing else to do."""
    key = _key(work)
    async with _machine(ctx, run_id) as is_alone, ctx.sessions() as session:
        if key in _closed or not is_alone or not await runs.may_help(session, run_id):
            return
        await session.close()
        stopping = threading.Event()
        watching = asyncio.create_task(_watch(ctx, run_id, stopping), name=f"watch of run {run_id}")
        try:
            log.info("helping", run=run_id, kind=work["kind"])
            await _help(ctx, work, stopping)
        except RunInterrupted:
            pass
        except Exception as error:
            if is_infrastructure(error):
                raise
            _closed.add(key)
            log.warning("cannot_help", run=run_id, reason=explain(error))
        finally:
            watching.cancel()
            log.info("helped", run=run_id)


async def _help(ctx: JobContext, work: Work, stopping: threading.Event) -> None:
    def progress(done: int, total: int, metrics: Mapping[str, float] | None = None, /) -> None:
        if stopping.is_set():
            raise RunInterrupted

    opened = await in_thread(partial(_OPENERS[work["kind"]], ctx, work), stopping.set)
    if (store := ctx.artifacts.store) is not None:
        opened = StoredShards(opened, store)
    async with locks.shard_locks(ctx.engine, _key(work)) as take:
        # A process that begins the run anew removes what is half written: then the shard is made again.
        with suppress(FileNotFoundError):
            await in_thread(partial(help_make, opened, take=take, progress=progress), stopping.set)


async def _watch(ctx: JobContext, run_id: int, stopping: threading.Event) -> None:
    """Tell the work to stop when the run has ended, or another waits for a worker."""
    while True:
        with suppress(*INFRASTRUCTURE):
            async with ctx.sessions() as session:
                if not await runs.may_help(session, run_id):
                    stopping.set()
        await asyncio.sleep(_WATCH_SECONDS)


@asynccontextmanager
async def _machine(ctx: JobContext, run_id: int) -> AsyncIterator[bool]:
    """Be the one process of this machine that works on a run; yield whether it is."""
    async with locks.subject_lock(ctx.engine, f"run {run_id} on {ctx.settings.machine}") as is_alone:
        yield is_alone


def _key(work: Work) -> str:
    return sha256_json(work)
