"""The end of a command: interrupted, ended by a signal, or with nowhere to write its result."""

import os
import shlex
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from app.supervision.postgres_server import PostgresServer
from tests.tiny import CORPUS_FILE, tiny_model

INTERRUPTED_IMPORT = """
import importlib.util
import sys
from app.cli import main

class Interrupts:
    def find_spec(self, name, path, target=None):
        if name != module:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def interrupted(module):
            execute(module)
            raise KeyboardInterrupt

        spec.loader.exec_module = interrupted
        return spec

module = sys.argv.pop(1)
sys.meta_path.insert(0, Interrupts())
main()
"""


@pytest.mark.parametrize("module", ["app.tables.comparisons", "sqlalchemy"])
def test_an_interrupt_in_the_middle_of_an_import_is_one_line(module: str) -> None:
    command = ["index", "a", "--corpus", "c"]
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_IMPORT, module, *command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 130
    assert done.stderr == "Stopped. The same command continues from here.\n"


def start_with(handlers: dict[signal.Signals, signal.Handlers]) -> None:
    """Set what a new process does with signals: these tests may themselves run under nohup."""
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "background"),
    [(signal.SIGHUP, False), (signal.SIGTERM, True)],
    ids=["hangup of a terminal", "end of a script's background job"],
)
def test_a_command_that_is_told_to_end_stops_its_database(
    number: signal.Signals, background: bool, home: Path, tmp_path: Path
) -> None:
    model = tiny_model(tmp_path / "model")
    options = ["--hook", "resid_post.1", "--corpus", str(CORPUS_FILE), "--width", "64", "--samples", "100000000"]
    command = subprocess.Popen(
        [sys.executable, "-m", "app.cli", "train", "--model", str(model), *options],
        env={**os.environ, "SEESAE_HOME": str(home)},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=partial(
            start_with, {signal.SIGHUP: signal.SIG_DFL} | ({signal.SIGINT: signal.SIG_IGN} if background else {})
        ),
    )
    with command:
        assert command.stderr is not None
        next(line for line in command.stderr if line.startswith("Train the SAE: running"))
        postmaster = PostgresServer(home.resolve() / "postgres").postmaster()
        command.send_signal(number)
        command.send_signal(number)  # as `timeout` does
        said = command.stderr.read()
    assert command.returncode == 130
    assert said.splitlines()[-1] == "Stopped. The same command continues from here."
    assert "Traceback" not in said
    assert postmaster is not None and not postmaster.is_running()


def test_a_command_under_nohup_does_not_end_with_its_terminal() -> None:
    code = (
        "import signal; from app.cli.outcome import take_ends_for_ctrl_c; take_ends_for_ctrl_c(); "
        "print(signal.getsignal(signal.SIGHUP) is signal.SIG_IGN)"
    )
    done = subprocess.run(["nohup", sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


TWO_LINES = """
import typer
from app.cli.encoding import degrade_output
from app.cli.outcome import answer, notify, report_user_errors

app = typer.Typer()

@app.command()
@report_user_errors
def command():
    notify("A message")
    answer({}, as_json=False, text="A result")

degrade_output()
app()
"""


@pytest.mark.parametrize(
    ("redirection", "status", "stdout", "stderr"),
    [
        ("", 0, "A result\n", "A message\n"),
        (">&-", 0, "", "A message\n"),
        ("2>&-", 0, "A result\n", ""),
        ("2>/dev/full", 0, "A result\n", ""),
        (">&- 2>&- <&-", 0, "", ""),
        (">/dev/full", 1, "", "A message\nError: Standard output cannot be written (No space left on device)."),
    ],
)
def test_a_stream_that_cannot_be_written_is_no_traceback(
    redirection: str, status: int, stdout: str, stderr: str
) -> None:
    command = f"{shlex.join([sys.executable, '-c', TWO_LINES])} {redirection}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (status, stdout)
    assert done.stderr.startswith(stderr)
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr
