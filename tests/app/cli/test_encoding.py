"""Every output on a terminal that knows ASCII alone."""

import os
import subprocess
import sys

import pytest

ASCII = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "COLUMNS": "100"}

HELP_OF_EVERY_COMMAND = """
import sys
import typer.main
from app.cli import app, main

def below(command, words):
    yield words
    for name, inner in getattr(command, "commands", {}).items():
        yield from below(inner, [*words, name])

for words in below(typer.main.get_command(app), []):
    sys.argv = ["seesae", *words, "--help"]
    try:
        main()
    except SystemExit as end:
        assert not end.code, words
    print("shown", *words)
"""

OUTPUT = r"""
import sys
from rich.console import Console
from app.cli import degrade_output
from app.cli.outcome import answer, notify
from app.cli.run_display import StageDisplay
from app.queries.runs import Stage

degrade_output()
notify("There is no SAE \u201ch\xe4user\u201d\u2026 try 3 \xd7 4")
answer({}, as_json=False, text="a \u2013 b, \udcff")
with StageDisplay(Console(file=sys.stderr, force_terminal=True)) as display:
    display.show([Stage("train", "Train", "running", 1, 2), Stage("end", "End", "done", 1, 1)])
"""


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        encoding=environment["PYTHONIOENCODING"],
        check=False,
    )


def test_help_of_every_command_is_shown() -> None:
    shown = run(HELP_OF_EVERY_COMMAND, **ASCII)
    assert shown.returncode == 0, shown.stderr
    assert {"shown train", "shown db restore", "shown bench web"} <= set(shown.stdout.splitlines())
    assert "seesae train" in shown.stdout


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_messages_results_and_bars_degrade(encoding: str) -> None:
    shown = run(OUTPUT, **{**ASCII, "PYTHONIOENCODING": encoding})
    assert shown.returncode == 0, shown.stderr
    assert "no SAE" in shown.stderr
    if encoding == "ascii":
        assert 'There is no SAE "h\\xe4user"... try 3 x 4' in shown.stderr
        assert shown.stdout == "a - b, \\udcff\n"


def test_a_terminal_of_unicode_shows_what_was_written() -> None:
    shown = run(OUTPUT, PYTHONIOENCODING="utf-8")
    assert "There is no SAE “häuser”… try 3 × 4" in shown.stderr
