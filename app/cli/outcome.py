"""How commands end: a result on standard output, or one line on standard error and an exit status."""

import functools
import json
import sys
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

import typer

from app.errors import UserError
from sae_core.errors import SAEError

P = ParamSpec("P")
R = TypeVar("R")

FAILED = 1
INTERRUPTED = 130
"""128 + SIGINT, as shells have it."""


def notify(line: str) -> None:
    """Tell the person at the terminal, above bars that are being drawn; standard output stays free for results."""
    from app.cli.run_display import stderr_console

    stderr_console().print(line, markup=False, soft_wrap=True)


def answer(result: Mapping[str, Any], *, as_json: bool, text: str) -> None:
    """End with a result: one JSON object on standard output's last line, or text for a person."""
    typer.echo(json.dumps(result) if as_json else text)
    sys.stdout.flush()


def report_user_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Make a command end, where something is the user's to mend, with one clear line and the status that says so."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except (UserError, SAEError) as error:
            notify(f"Error: {error}")
            raise typer.Exit(FAILED) from None
        except KeyboardInterrupt:
            notify("Stopped. The same command goes on from here.")
            raise typer.Exit(INTERRUPTED) from None

    return wrapped
