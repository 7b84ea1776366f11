"""The end of a command: a result on standard output, or one line on standard error and an exit status."""

import functools
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, ParamSpec, TypeVar

import typer
from rich.text import Text

from app.cli.run_display import stderr_console
from app.cli.run_options import name_options
from app.errors import UserError
from app.redaction import redact
from sae_core.errors import SAEError

P = ParamSpec("P")
R = TypeVar("R")

FAILED = 1
INTERRUPTED = 130
"""128 + SIGINT, as shells have it."""
_ENDING = (signal.SIGTERM, signal.SIGHUP)


def notify(line: str, *, mark: str = "", style: str = "") -> None:
    """Print one line on standard error, above progress bars; standard output stays free for results.

    Args:
        line: the text.
        mark: text in front of it, in `style` where the terminal has colours.
    """
    stderr_console().print(Text.assemble((mark, style), name_options(redact(line))), soft_wrap=True)


def answer(result: Mapping[str, Any], *, as_json: bool, text: str) -> None:
    """Print a result on standard output: one JSON object on its last line, or text for a person; raises as `say`."""
    say(json.dumps(result) if as_json else text)


def say(text: str) -> None:
    """Print text on standard output.

    Raises:
        UserError: it cannot be written, as on a full disk.
    """
    try:
        # Not by typer.echo, which writes UTF-8 to a terminal of ASCII.
        sys.stdout.write(text + "\n")
        sys.stdout.flush()
    except BrokenPipeError:  # of a reader that had enough, such as `head`
        raise
    except OSError as error:
        with Path(os.devnull).open("wb") as nowhere:  # or Python fails once more, over what it could not write
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        raise UserError(
            f"Standard output cannot be written ({error.strerror}). Send it elsewhere, and give the command again."
        ) from None


def take_ends_for_ctrl_c() -> None:
    """Let SIGTERM (of `timeout`, Slurm or systemd) and SIGHUP (of a closed terminal) do what Ctrl-C does.

    By default they end a process at once, and the database that it has started stays behind.
    """
    for number in _ENDING:
        if signal.getsignal(number) is signal.SIG_DFL:  # nohup ignores SIGHUP
            signal.signal(number, _interrupt)


def _interrupt(_number: int, frame: FrameType | None) -> None:
    for number in _ENDING:  # they often come twice, and a second Ctrl-C would not let the command stop in order
        signal.signal(number, signal.SIG_IGN)
    on_ctrl_c = signal.getsignal(signal.SIGINT)
    if not callable(on_ctrl_c):  # a shell's script starts what runs in the background without Ctrl-C
        raise KeyboardInterrupt
    on_ctrl_c(signal.SIGINT, frame)


def report_user_errors(command: Callable[P, R]) -> Callable[P, R]:
    """Make a command end with one clear line and status 1 where the user can fix what failed."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except (UserError, SAEError) as error:
            notify(f"Error: {error}")
            raise typer.Exit(FAILED) from None
        except KeyboardInterrupt:
            notify("Stopped. The same command continues from here.")
            raise typer.Exit(INTERRUPTED) from None

    return wrapped
