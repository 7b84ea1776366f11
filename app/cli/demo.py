"""seesae demo: from nothing to a site with real features, in one command."""

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.options import Host, Json, Port, Queue
from app.cli.outcome import answer, notify, report_user_errors
from app.cli.processes import settings_with
from app.cli.run_commands import leave_to_worker
from app.cli.run_options import with_params
from app.pipeline.demo import DEMO, DemoParams, as_asked_earlier, demo_slugs

if TYPE_CHECKING:
    from app.queries.runs import RunView
    from app.runs.job_context import JobContext
    from app.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(DEMO.kind, help=DEMO.help)(with_params(DemoParams)(report_user_errors(demo)))


def demo(
    params: DemoParams,
    serve: Annotated[
        bool, typer.Option("--serve/--no-serve", help="Serve the site meanwhile and afterwards, or only do the work.")
    ] = True,
    queue: Queue = False,
    as_json: Json = False,
    host: Host = None,
    port: Port = None,
) -> None:
    """Do the demo."""
    if queue:
        leave_to_worker(DEMO, params, as_json)
        return
    settings = settings_with(host=host, port=port)
    asyncio.run((_served if serve else _unserved)(settings, params, as_json))


async def _unserved(settings: "Settings", params: DemoParams, as_json: bool) -> None:
    """Do the work in this process, unless it is done."""
    from app.artifacts import require_store
    from app.cli.local_runs import do_or_follow, local_job_context
    from app.cli.run_display import StageDisplay, stderr_console
    from app.logging import configure

    configure("error")
    await asyncio.to_thread(require_store, settings)
    async with local_job_context(settings) as ctx:
        run = await find_done(ctx, params)
        if run is None:
            with StageDisplay(stderr_console()) as display:
                run = await do_or_follow(ctx, display, DEMO, params)
    _answer(run, as_json)


async def _served(settings: "Settings", params: DemoParams, as_json: bool) -> None:
    """Serve the site, let its worker do the work, follow it here, and keep serving."""
    from app.supervision.embedded_postgres import database
    from app.supervision.instance_lock import AlreadyRunning
    from app.supervision.supervisor import running_site, stop_signals

    async with stop_signals() as stop:
        try:
            async with running_site(settings, notify, stop) as site:
                notify(f"SeeSAE is at {site.url}")
                if not await _until(stop, _work(settings, site.database_url, site.url, params, as_json)):
                    notify("Stopping. The same command continues from here.")
                    return
                notify("The site stays up: Ctrl-C stops it.")
                await stop.wait()
                notify("Stopping.")
        except AlreadyRunning as running:
            if running.holder.url is None:
                raise
            notify(f"SeeSAE is already running at {running.holder.url}; this demo goes to its worker.")
            with database(settings.home, settings.database_url) as database_url:
                await _until(stop, _work(settings, database_url, running.holder.url, params, as_json))


async def _until(stop: asyncio.Event, work: Coroutine[Any, Any, None]) -> bool:
    """Do the work unless stopped before its end; return whether it was done."""
    working, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not working.done():
        working.cancel()
        await asyncio.wait({working})
        return False
    await working
    return True


async def _work(settings: "Settings", database_url: str, url: str, params: DemoParams, as_json: bool) -> None:
    """See that the demo is done or queued, and follow it."""
    from app.cli.local_runs import follow, open_job_context
    from app.cli.run_display import StageDisplay, stderr_console

    async with open_job_context(settings, database_url) as ctx:
        run = await submit_demo(ctx, params)
        if run.state != "done":
            notify(f"Follow it at {url}/runs/{run.id}")
            with StageDisplay(stderr_console()) as display:
                run = await follow(ctx, run.id, display)
    _answer(run, as_json, url)


async def find_done(ctx: "JobContext", params: DemoParams) -> "RunView | None":
    """Return the demo with these parameters, if it is done and what it made is still there."""
    from app.queries import saes
    from app.runs.submit import find_run

    async with ctx.sessions() as session:
        done = await find_run(session, DEMO, params, "done")
        done = done or await find_run(session, DEMO, as_asked_earlier(params), "done")
        details = [await saes.get_sae(session, slug) for slug in demo_slugs(params)]
    return done if all(detail is not None and detail.index is not None for detail in details) else None


async def submit_demo(ctx: "JobContext", params: DemoParams) -> "RunView":
    """Return the demo with these parameters: done, in progress, or queued now."""
    from app.runs.submit import request_run
    from app.services.actors import local_actor

    done = await find_done(ctx, params)
    if done is not None:
        return done
    async with ctx.sessions.begin() as session:
        return await request_run(session, DEMO, params, settings=ctx.settings, actor=local_actor(ctx.settings))


def _answer(run: "RunView", as_json: bool, url: str | None = None) -> None:
    from app.cli.result_text import full_text, ordered_result

    result = ordered_result(DEMO, run)
    text = full_text(DEMO, result)
    if url is not None:
        text += f"\nBrowse the features: {url}" + (f"/saes/{result['sae']}" if "sae" in result else "")
    answer(result, as_json=as_json, text=text)
