"""Stages in a terminal, and where output is piped."""

from dataclasses import replace
from io import StringIO

from rich.console import Console

from app.cli.run_display import StageDisplay, amount
from app.queries.runs import Stage

FETCH = Stage("fetch", "Fetch the model", unit="bytes")
TRAIN = Stage("train", "Train the SAE", unit="samples")


def shown(console: Console, *moments: tuple[Stage, ...]) -> str:
    with StageDisplay(console) as display:
        for stages in moments:
            display.show(stages)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_piped_output_has_a_line_per_start_and_end_of_new_stages() -> None:
    done = replace(FETCH, state="done", done=10, total=10, seconds=3.0)
    text = shown(
        Console(file=StringIO()),
        (done, TRAIN),
        (done, replace(TRAIN, state="running", done=1, total=9)),
        (done, replace(TRAIN, state="running", done=5, total=9)),
        (done, replace(TRAIN, state="done", done=9, total=9, seconds=2.5)),
    )
    assert text.splitlines() == ["Train the SAE: running", "Train the SAE: done in 2.5 s"]


def test_piped_output_has_a_line_with_the_time_left_every_ten_seconds() -> None:
    console, now = Console(file=StringIO()), 0.0
    with StageDisplay(console, clock=lambda: now) as display:
        for second in range(0, 31, 2):  # a tenth was done by an earlier attempt: it says nothing of the speed
            now = float(second)
            display.show([replace(TRAIN, state="running", done=1_000 + 20 * second, total=10_000)])
        display.show([replace(TRAIN, state="running", done=9_000, total=10_000)])
    assert isinstance(console.file, StringIO)
    assert console.file.getvalue().splitlines() == [
        "Train the SAE: running",
        "Train the SAE: 12 %, 0:07:20 left",
        "Train the SAE: 14 %, 0:07:10 left",
        "Train the SAE: 16 %, 0:07:00 left",
    ]


def test_a_stage_whose_end_is_not_known_shows_its_count_and_a_stopped_one_no_time_left() -> None:
    console, now = Console(file=StringIO()), 0.0
    with StageDisplay(console, clock=lambda: now) as display:
        display.show([replace(TRAIN, state="running", done=5)])
        now = 10.0
        display.show([replace(TRAIN, state="running", done=2_000, seconds=12.3)])
        now = 20.0
        display.show([replace(TRAIN, state="running", seconds=22.3)])
        now = 30.0
        display.show([replace(TRAIN, state="running", done=5, total=10)])
    assert isinstance(console.file, StringIO)
    assert console.file.getvalue().splitlines()[1:] == [
        "Train the SAE: 2,000 samples, running for 12 s",
        "Train the SAE: running for 22 s",
        "Train the SAE: 50 %",
    ]


def test_a_terminal_shows_counts_in_their_units_and_the_time_taken() -> None:
    console = Console(file=StringIO(), force_terminal=True, width=120, color_system=None)
    text = shown(
        console,
        (replace(FETCH, state="running", done=46_000_000, total=92_000_000), TRAIN),
        (replace(FETCH, state="done", done=92_000_000, total=92_000_000, seconds=4.0), TRAIN),
        (replace(FETCH, state="done", total=92_000_000), replace(TRAIN, state="running", done=2048, total=1_000_000)),
    )
    assert "92.0 MB" in text
    assert "2,048 / 1,000,000 samples" in text
    assert "✓ Fetch the model" in text


def test_a_stage_without_a_unit_shows_no_count() -> None:
    console = Console(file=StringIO(), force_terminal=True, width=120, color_system=None)
    text = shown(
        console, (Stage("audit", "Audit", "running", 417, 1000),), (Stage("audit", "Audit", "done", 1000, 1000),)
    )
    assert "Audit" in text
    assert "417" not in text
    assert "1,000" not in text


def test_a_terminal_shows_what_a_stage_waits_for() -> None:
    console = Console(file=StringIO(), force_terminal=True, width=160, color_system=None)
    waiting = replace(TRAIN, state="running", title="Train the SAE: waits for run 12, which makes the same SAE")
    assert "waits for run 12" in shown(console, (TRAIN,), (waiting,))


def test_amounts() -> None:
    assert amount(204_800, "tokens") == "204,800 tokens"
    assert amount(92_871_040, "bytes") == "92.9 MB"
    assert amount(3, "") == "3"


def test_the_time_that_the_whole_run_takes_is_said_at_once_and_every_half_minute() -> None:
    read = Stage("activations", "Run the model", "running", total=1000, unit="tokens", expected=100.0)
    console, now = Console(file=StringIO()), 0.0
    with StageDisplay(console, clock=lambda: now) as display:
        for second in (0, 4, 29, 31):
            now = float(second)
            display.show([replace(read, done=5 * second, seconds=float(second)), replace(TRAIN, expected=50.0)])
    assert isinstance(console.file, StringIO)
    said = [line for line in console.file.getvalue().splitlines() if line.startswith("This machine")]
    assert said == [
        "This machine runs the model at 10 tokens/s. About 2 min 30 s left.",
        "This machine runs the model at 5 tokens/s. About 3 min 30 s left.",
    ]
    terminal = Console(file=StringIO(), force_terminal=True, width=120, color_system=None)
    assert "10 tokens/s. About 2 min 30 s left." in shown(terminal, (read, replace(TRAIN, expected=50.0)))
