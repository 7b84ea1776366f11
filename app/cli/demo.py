"""seesae demo: from nothing to a site with real features, in one command."""

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.options import Host, Json, Port
from app.cli.outcome import answer, notify, report_user_errors
from app.cli.processes import settings_with

if TYPE_CHECKING:
    from app.queries.runs import RunView
    from app.runs.params import DemoParams
    from app.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(demo)


@report_user_errors
def demo(
    tokens: Annotated[int, typer.Option(min=4096, help="Tokens of Wikipedia summaries to learn from.")] = 200_000,
    width: Annotated[int, typer.Option(min=64, help="Number of features.")] = 4096,
    k: Annotated[int, typer.Option(min=1, help="Features that are active on a token, on average.")] = 32,
    layer: Annotated[int, typer.Option(min=0, max=29, help="Layer of SmolLM2-135M whose output is read.")] = 9,
    serve: Annotated[
        bool, typer.Option("--serve/--no-serve", help="Serve the site meanwhile and afterwards, or only do the work.")
    ] = True,
    as_json: Json = False,
    host: Host = None,
    port: Port = None,
) -> None:
    """Learn the features of a small language model on this machine, and browse them.

    Fetches SmolLM2-135M and Wikipedia summaries (98 MB, once), trains a sparse autoencoder, indexes its features and
    serves the site, which shows the work as it goes. Takes some minutes. Started again, it goes on from where it was,
    and what is done is not done again.

    Examples:
      seesae demo
      seesae demo --tokens 500000 --width 8192
      seesae demo --no-serve --json
    """
    from app.runs.params import DemoParams

    params = DemoParams(tokens=tokens, width=width, k=k, layer=layer)
    settings = settings_with(host=host, port=port)
    asyncio.run((_served if serve else _unserved)(settings, params, as_json))


async def _unserved(settings: "Settings", params: "DemoParams", as_json: bool) -> None:
    """Do the work in this process."""
    from app.cli.local_runs import run_here
    from app.cli.run_display import StageDisplay, stderr_console
    from app.logging import configure
    from app.pipeline.naming import demo_title
    from app.runs.stages import DEMO

    configure("error")
    with StageDisplay(stderr_console()) as display:
        run = await run_here(settings, display, kind="demo", title=demo_title(params), params=params, stages=DEMO)
    _answer(run, as_json)


async def _served(settings: "Settings", params: "DemoParams", as_json: bool) -> None:
    """Serve the site, let its worker do the work, follow it here, and go on serving."""
    from app.supervision.embedded_postgres import database
    from app.supervision.instance_lock import AlreadyRunning
    from app.supervision.supervisor import running_site, stop_signals

    async with stop_signals() as stop:
        try:
            async with running_site(settings, notify, stop) as site:
                notify(f"SeeSAE is at {site.url}")
                if not await _until(stop, _work(settings, site.database_url, site.url, params, as_json)):
                    notify("Stopping. The same command goes on from here.")
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
    """Do the work unless stopped before its end; whether it was done."""
    working, stopping = asyncio.create_task(work), asyncio.create_task(stop.wait())
    await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not working.done():
        working.cancel()
        await asyncio.wait({working})
        return False
    await working
    return True


async def _work(settings: "Settings", database_url: str, url: str, params: "DemoParams", as_json: bool) -> None:
    """See that the demo is done or queued, and follow it."""
    from app.cli.local_runs import follow, open_job_context, request_demo
    from app.cli.run_display import StageDisplay, stderr_console

    async with open_job_context(settings, database_url) as ctx:
        run = await request_demo(ctx, params)
        if run.state != "done":
            notify(f"Follow it at {url}/runs/{run.id}")
            with StageDisplay(stderr_console()) as display:
                run = await follow(ctx, run.id, display)
    _answer(run, as_json, url)


def _answer(run: "RunView", as_json: bool, url: str | None = None) -> None:
    from app.cli.run_display import in_order, result_text

    assert run.result is not None
    result = in_order(run.result, run.stages)
    text = result_text(result)
    if url is not None:
        text += f"\nBrowse the features: {url}/saes/{result['sae']}"
    answer(result, as_json=as_json, text=text)
