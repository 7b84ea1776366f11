"""Runs as commands: what was given is checked, the work is done here with bars, and its result comes back."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

if TYPE_CHECKING:
    from app.queries.runs import RunKind, Stage
    from app.runs.params import Params
    from app.settings import Settings

P = TypeVar("P", bound="Params")


def absolute(given: str) -> str:
    """A path that exists, as any working directory finds it; anything else, such as a name on the hub, as it is."""
    path = Path(given).expanduser()
    # A file's own name is left alone: in the hub's cache it is a link, and its target says nothing.
    return str(path.parent.resolve() / path.name) if path.exists() else given


def validated(kind: type[P], options: dict[str, Any]) -> P:
    """The parameters, or bad usage naming the option that is missing or wrong."""
    from pydantic import ValidationError

    try:
        return kind.model_validate(options)
    except ValidationError as error:
        first = error.errors()[0]
        option = "--" + ".".join(str(part) for part in first["loc"]).replace("_", "-")
        raise typer.BadParameter(first["msg"], param_hint=option if first["loc"] else None) from None


def do_run(
    settings: "Settings", kind: "RunKind", title: str, params: "Params", stages: "Sequence[Stage]"
) -> dict[str, Any]:
    """Do a run here, with bars; its result in the order in which a person would list it."""
    from app.cli.local_runs import run_here
    from app.cli.run_display import StageDisplay, in_order, stderr_console
    from app.logging import configure

    configure("error")
    with StageDisplay(stderr_console()) as display:
        run = asyncio.run(run_here(settings, display, kind=kind, title=title, params=params, stages=stages))
    assert run.result is not None
    return in_order(run.result, run.stages)
