"""seesae runs: list, show, cancel, retry."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, cast, get_args

import typer

from app.cli.options import Json
from app.cli.outcome import answer, report_user_errors
from app.cli.processes import settings_with

if TYPE_CHECKING:
    from app.queries.runs import RunView
    from app.runs.job_context import JobContext

T = TypeVar("T")

group = typer.Typer(
    help="""List, follow, cancel and retry runs: all long work, of commands, workers and the site.

    Examples:
      seesae index my-sae --corpus texts.jsonl --queue
      seesae runs
      seesae runs show 12 --follow
      seesae runs cancel 12
    """
)

Number = Annotated[int, typer.Argument(min=1, max=2**31 - 1, help="Number of the run.", show_default=False)]


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(group, name="runs", rich_help_panel="Work")


@group.callback(invoke_without_command=True)
def runs(context: typer.Context, as_json: Json = False) -> None:
    """Without a command, list the newest runs."""
    if context.invoked_subcommand is None:
        list_runs(as_json=as_json)


@group.command("list")
@report_user_errors
def list_runs(
    state: Annotated[
        str | None, typer.Option(help="Only runs in this state: queued, running, done, failed or cancelled.")
    ] = None,
    kind: Annotated[str | None, typer.Option(help="Only runs of this kind, such as train.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Most runs to list.")] = 20,
    as_json: Json = False,
) -> None:
    """List runs, newest first."""
    from app.cli.result_text import runs_table
    from app.queries import runs as queries

    if state is not None and state not in get_args(queries.RunState):
        raise typer.BadParameter(f"{state!r} is no state of a run.", param_hint="--state")

    async def found(ctx: "JobContext") -> "list[RunView]":
        async with ctx.sessions() as session:
            return (
                await queries.list_runs(session, state=cast("queries.RunState | None", state), kind=kind, limit=limit)
            )[0]

    listed = _with_database(found)
    text = runs_table(listed) if listed else "There are no such runs." if state or kind else "Nothing has run yet."
    answer({"runs": [_as_json(run) for run in listed]}, as_json=as_json, text=text)


@group.command()
@report_user_errors
def show(
    number: Number,
    follow: Annotated[bool, typer.Option("--follow", help="Show its progress until it ends.")] = False,
    as_json: Json = False,
) -> None:
    """Show one run: its state, its stages and its result."""
    from app.cli.local_runs import follow as follow_run
    from app.cli.result_text import run_text
    from app.cli.run_display import StageDisplay, stderr_console
    from app.services.runs import find_run

    async def found(ctx: "JobContext") -> "RunView":
        async with ctx.sessions() as session:
            run = await find_run(session, number)
        if follow and run.finished_at is None:
            with StageDisplay(stderr_console()) as display:
                run = await follow_run(ctx, number, display)
        return run

    run = _with_database(found)
    answer(_as_json(run), as_json=as_json, text=run_text(run))


@group.command()
@report_user_errors
def cancel(number: Number, as_json: Json = False) -> None:
    """Stop a run that waits or runs. What it has finished is kept; a retry continues from there."""
    from app.runs.submit import cancel_run

    async def cancelled(ctx: "JobContext") -> "RunView":
        async with ctx.sessions.begin() as session:
            return await cancel_run(session, number)

    answer(_as_json(_with_database(cancelled)), as_json=as_json, text=f"Run {number} is cancelled.")


@group.command()
@report_user_errors
def retry(number: Number, as_json: Json = False) -> None:
    """Queue a run again that failed or was cancelled; a worker continues from what it left."""
    from app.cli.local_runs import queued_text
    from app.queries.runs import has_worker
    from app.runs.submit import retry_run

    async def retried(ctx: "JobContext") -> "tuple[RunView, bool]":
        async with ctx.sessions.begin() as session:
            return await retry_run(session, number), await has_worker(session)

    run, worker = _with_database(retried)
    answer(_as_json(run), as_json=as_json, text=queued_text(run, worker))


def _with_database(work: "Callable[[JobContext], Awaitable[T]]") -> T:
    """Do something with the database that the settings name, or the embedded one."""
    from app.cli.local_runs import local_job_context
    from app.logging import configure

    async def connected() -> T:
        async with local_job_context(settings_with()) as ctx:
            return await work(ctx)

    configure("error")
    return asyncio.run(connected())


def _as_json(run: "RunView") -> dict[str, Any]:
    return {
        "run": run.id,
        "kind": run.kind,
        "title": run.title,
        "state": run.state,
        "sae": run.sae_slug,
        "queue_position": run.queue_position,
        "worker": run.worker,
        "error": run.error,
        "params": dict(run.params),
        "result": None if run.result is None else dict(run.result),
    }
