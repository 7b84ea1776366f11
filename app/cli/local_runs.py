"""Runs from the command line: done in this process, or followed while the worker does them."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from app.db import create_engine, create_sessionmaker
from app.errors import UserError
from app.pipeline.naming import demo_slug, demo_title
from app.queries import runs, saes
from app.queries.runs import RunKind, RunView, Stage
from app.queries.sql import locks
from app.runs import queue
from app.runs.context import RunCancelled, RunInterrupted, RunLocked, StagesListener
from app.runs.failures import explain
from app.runs.job_context import JobContext
from app.runs.params import DemoParams, Params
from app.runs.stages import DEMO
from app.runs.submit import INTERRUPTED, find_run, request_run
from app.schema import upgrade
from app.settings import Settings
from app.supervision.embedded_postgres import database

_LOOK_SECONDS = 0.3


@asynccontextmanager
async def open_job_context(settings: Settings, database_url: str) -> AsyncIterator[JobContext]:
    """Connect to the database."""
    engine = create_engine(database_url, statement_timeout=None)
    try:
        yield JobContext(settings, engine, create_sessionmaker(engine))
    finally:
        await engine.dispose()


async def run_here(
    settings: Settings, listener: StagesListener, *, kind: RunKind, title: str, params: Params, stages: Sequence[Stage]
) -> RunView:
    """Do a run in this process, or go on with the one that was asked for before; the run as it ended.

    Where a worker is doing that very run, it is followed instead.

    Raises:
        UserError, SAEError: it failed in a way that its user can mend.
    """
    from app.runs.execution import execute

    with database(settings.home, settings.database_url) as database_url:
        await asyncio.to_thread(upgrade, database_url)
        async with open_job_context(settings, database_url) as ctx:
            async with ctx.sessions.begin() as session:
                run = await request_run(
                    session, kind=kind, title=title, params=params, stages=stages, created_by=settings.author
                )
            try:
                await execute(ctx, run.id, listener=listener)
            except (RunLocked, RunCancelled):
                pass  # what becomes of it shows below
            except (RunInterrupted, asyncio.CancelledError):
                async with ctx.sessions.begin() as session:
                    await runs.fail_run(session, run.id, INTERRUPTED)
                raise
            except Exception as error:
                raise UserError(explain(error)) from error  # what is not the user's to mend is in the log in full
            return await follow(ctx, run.id, listener)


async def request_demo(ctx: JobContext, params: DemoParams) -> RunView:
    """The demo with these parameters: done, being done, or put into the queue now."""
    async with ctx.sessions.begin() as session:
        done = await find_run(session, "demo", params, ("done",))
        if done is not None:
            detail = await saes.get_sae(session, demo_slug(params))
            if detail is not None and detail.index is not None:
                return done
        run = await request_run(
            session,
            kind="demo",
            title=demo_title(params),
            params=params,
            stages=DEMO,
            created_by=ctx.settings.author,
        )
        if not await locks.is_run_locked(ctx.engine, run.id):
            if (
                run.state == "failed"
            ):  # from here on it runs: who follows it must not take the old failure for a new one
                await runs.start_run(session, run.id)
            await queue.enqueue(session, run.id)
    return run


async def follow(ctx: JobContext, run_id: int, listener: StagesListener) -> RunView:
    """Show a run's stages until it ends; the run as it ended.

    Raises:
        UserError: it failed, or was cancelled.
    """
    while True:
        async with ctx.sessions() as session:
            run = await runs.get_run(session, run_id)
        assert run is not None
        listener.show(run.stages)
        if run.state == "done":
            return run
        if run.state == "failed":
            raise UserError(run.error or "The run failed.")
        if run.state == "cancelled":
            raise UserError("The run was cancelled.")
        await asyncio.sleep(_LOOK_SECONDS)
