"""A command for every kind of run: it does the work here, or leaves it to a worker."""

import asyncio
import os
from collections.abc import Callable
from typing import Any

import typer

from app.cli.options import Device, Json, Queue
from app.cli.outcome import answer, report_user_errors
from app.cli.processes import settings_with
from app.cli.run_options import with_params
from app.errors import UserError
from app.pipeline import KINDS
from app.runs.params import Params
from app.runs.spec import RunSpec


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for spec in KINDS:
        if spec.panel:
            app.command(spec.kind, help=spec.help, rich_help_panel=spec.panel)(run_command(spec))


def run_command(spec: RunSpec[Any]) -> Callable[..., None]:
    """Return the command that does a run of this kind."""

    def run(params: Params, device: Device = None, queue: Queue = False, as_json: Json = False) -> None:
        if queue and device is not None:
            raise typer.BadParameter("A worker computes on its own SEESAE_DEVICE.", param_hint="--device")
        do(params, device, queue, as_json)

    def run_without_device(params: Params, queue: Queue = False, as_json: Json = False) -> None:
        do(params, None, queue, as_json)

    def do(params: Params, device: str | None, queue: bool, as_json: bool) -> None:
        if queue:
            leave_to_worker(spec, params, as_json)
        else:
            _run(spec, params, device, as_json)

    command = run if spec.takes_device else run_without_device
    return with_params(spec.params, takes_config=spec.takes_config)(report_user_errors(command))


def _run(spec: RunSpec[Any], params: Params, device: str | None, as_json: bool) -> None:
    """Do a run here, with bars, and end with its result."""
    from app.cli.local_runs import run_here
    from app.cli.result_text import full_text, ordered_result
    from app.cli.run_display import StageDisplay, stderr_console
    from app.logging import configure

    if spec.assist is not None and _assists_another():
        spec.assist(params)
        return
    configure("error")
    with StageDisplay(stderr_console()) as display:
        run = asyncio.run(run_here(settings_with(device=device), display, spec, params))
    result = ordered_result(spec, run)
    answer(result, as_json=as_json, text=full_text(spec, result))


def leave_to_worker(spec: RunSpec[Any], params: Params, as_json: bool) -> None:
    """Queue a run, and end with its number and the way to follow it."""
    from app.cli.local_runs import queue_run, queued_text
    from app.logging import configure

    configure("error")
    run, worker = asyncio.run(queue_run(settings_with(), spec, params))
    result = {"run": run.id, "state": run.state, "queue_position": run.queue_position, "worker_alive": worker}
    answer(result, as_json=as_json, text=queued_text(run, worker))


def _assists_another() -> bool:
    """True for each process that torchrun started but the first. A scheduler may set RANK for one process alone.

    Raises:
        UserError: these variables of the environment are not numbers.
    """
    try:
        return int(os.environ.get("WORLD_SIZE", "1")) > 1 and int(os.environ.get("RANK", "0")) > 0
    except ValueError:
        raise UserError(
            "RANK and WORLD_SIZE must be numbers, as torchrun sets them. Unset them, or use torchrun."
        ) from None
