"""Runs from the command line: done in this process, or followed while a worker does them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import structlog

from app.artifacts import require_store
from app.db import create_engine, create_sessionmaker
from app.errors import UserError
from app.queries import runs
from app.queries.runs import RunView
from app.queries.sql import locks
from app.runs.context import RunCancelled, RunInterrupted, RunLocked, StagesListener
from app.runs.execution import execute
from app.runs.failures import INFRASTRUCTURE, INTERRUPTED, explain
from app.runs.job_context import JobContext
from app.runs.outages import wait_for_database
from app.runs.spec import P, RunSpec
from app.runs.submit import request_run, submit_run
from app.schema import upgrade
from app.services.actors import local_actor
from app.settings import Settings
from app.supervision.kept_database import kept_database

log = structlog.get_logger("command")

_POLL_SECONDS = 0.3


@asynccontextmanager
async def open_job_context(settings: Settings, database_url: str) -> AsyncIterator[JobContext]:
    """Connect to the database."""
    engine = create_engine(database_url, statement_timeout=None)
    try:
        yield JobContext(settings, engine, create_sessionmaker(engine))
    finally:
        await engine.dispose()


@asynccontextmanager
async def local_job_context(settings: Settings) -> AsyncIterator[JobContext]:
    """Connect to the database that the settings name, or keep the embedded one running, with its tables up to date.

    Raises:
        UserError: the database cannot be reached, or does not start.
    """
    async with kept_database(settings, _tell, asyncio.Event()) as database_url:
        await asyncio.to_thread(upgrade, database_url)
        async with open_job_context(settings, database_url) as ctx:
            yield ctx


def _tell(line: str) -> None:
    log.error("database", state=line)


async def run_here(settings: Settings, listener: StagesListener, spec: RunSpec[P], params: P) -> RunView:
    """Do a run in this process, or continue the one that was submitted before; return the run as it ended.

    Where a worker is doing that very run, it is followed instead.

    Raises:
        UserError: it failed; the message says what to do.
    """
    await asyncio.to_thread(require_store, settings)
    async with local_job_context(settings) as ctx:
        return await do_or_follow(ctx, listener, spec, params)


async def do_or_follow(ctx: JobContext, listener: StagesListener, spec: RunSpec[P], params: P) -> RunView:
    """Do what `run_here` does, on a database that is open, once the object store is known to be usable.

    Raises:
        UserError: as `run_here`.
    """
    async with ctx.sessions.begin() as session:
        run = await submit_run(session, spec, params, settings=ctx.settings, actor=local_actor(ctx.settings))
    while True:
        await _execute(ctx, run.id, listener)
        try:
            return await follow(ctx, run.id, listener, take_over=True)
        except RunAbandoned:
            continue


async def _execute(ctx: JobContext, run_id: int, listener: StagesListener) -> None:
    """Do a run unless another process does it.

    Raises:
        UserError: it failed.
    """
    try:
        await execute(ctx, run_id, listener=listener)
    except (RunLocked, RunCancelled):
        pass  # what becomes of it is followed
    except (RunInterrupted, asyncio.CancelledError):
        with suppress(*INFRASTRUCTURE):  # without the database, a worker writes it later
            async with ctx.sessions.begin() as session:
                await runs.fail_run(session, run_id, INTERRUPTED)
        raise
    except Exception as error:
        raise UserError(explain(error)) from error  # what is not for the user to fix is in the log in full


async def queue_run(settings: Settings, spec: RunSpec[P], params: P) -> tuple[RunView, bool]:
    """Give a run to the workers; return it, and whether one is alive.

    Raises:
        UserError: it cannot be done, and why.
    """
    async with local_job_context(settings) as ctx, ctx.sessions.begin() as session:
        run = await request_run(session, spec, params, settings=settings, actor=local_actor(settings))
        return run, await runs.has_worker(session)


def queued_text(run: RunView, worker: bool) -> str:
    """Say how to follow a run that waits for a worker."""
    if run.state == "running":
        return f"Run {run.id} is under way. Follow it: seesae runs show {run.id} --follow"
    place = "next" if run.queue_position == 1 else f"number {run.queue_position} in the queue"
    text = f"Run {run.id} is {place}. Follow it: seesae runs show {run.id} --follow"
    return text if worker else f"{text}\nNo worker is running yet. Start one: seesae serve, or seesae worker"


class RunAbandoned(Exception):
    """The process that did the run was killed."""


async def follow(ctx: JobContext, run_id: int, listener: StagesListener, *, take_over: bool = False) -> RunView:
    """Show a run's stages until it ends, also where the database goes away meanwhile; return the run as it ended.

    Raises:
        RunAbandoned: with `take_over`, nobody does the run any more.
        UserError: it failed, or was cancelled, or the database did not come back.
    """
    while True:
        try:
            async with ctx.sessions() as session:
                run = await runs.get_run(session, run_id)
                abandoned = take_over and not await locks.holds_run_lock(session, run_id)
        except INFRASTRUCTURE:
            try:
                await wait_for_database(ctx.engine)
            except INFRASTRUCTURE as error:
                raise UserError(explain(error)) from error
            continue
        assert run is not None
        listener.show(run.stages)
        if run.state == "done":
            return run
        if run.state == "failed":
            raise UserError(run.error or "The run failed.")
        if run.state == "cancelled":
            raise UserError("The run was cancelled.")
        if abandoned:
            raise RunAbandoned
        await asyncio.sleep(_POLL_SECONDS)
