"""Stages of a run in the terminal: bars on a terminal; where output is piped, lines when a stage starts and ends, and
every ten seconds between.

Everything goes to standard error: standard output is for results.
"""

import sys
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from functools import cache
from types import TracebackType
from typing import TYPE_CHECKING, Self

from rich.console import Console, RenderableType
from rich.filesize import decimal
from rich.progress import BarColumn, Progress, Task, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from app.runs.time_left import Forecast, forecast

if TYPE_CHECKING:
    from app.queries.runs import Stage

LINE_SECONDS = 10.0
"""Time between the lines of a stage where output is piped."""
FORECAST_SECONDS = 30.0
"""Time between the lines that say how long the run takes."""


@cache
def stderr_console() -> Console:
    """Return the console on standard error: one per process, so that lines and bars do not overwrite each other.

    It keeps the stream that it starts with, so libraries that silence `sys.stderr` for a while do not silence it.
    """
    return Console(file=sys.stderr, highlight=False)


def amount(count: int, unit: str) -> str:
    """Format a count in its unit: "92.9 MB", "204,800 tokens"."""
    return decimal(count) if unit == "bytes" else f"{count:,} {unit}".rstrip()


class StageDisplay:
    """Display of stages. Use it as a context manager, and call `show` when stages change."""

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._printed = clock()
        self._foreseen = -FORECAST_SECONDS
        self._starts: dict[str, tuple[float, int]] = {}
        """When a running stage was first seen, and how much of it was done then."""
        self._tasks: dict[str, TaskID] = {}
        self._states: dict[str, str] = {}
        self._bars = _Bars(
            TextColumn("{task.fields[mark]}"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=28),
            _CountColumn("{task.percentage}"),
            _TimeColumn(),
            console=console,
            redirect_stdout=False,
            redirect_stderr=False,
            disable=not console.is_terminal,
        )

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bars.stop()

    def show(self, stages: "Sequence[Stage]") -> None:
        """Update the display."""
        self._show_forecast(forecast(stages))
        for stage in stages:
            if self._console.is_terminal:
                self._show_bar(stage)
            else:
                self._show_line(stage)
            self._states[stage.name] = stage.state

    def _show_forecast(self, expected: Forecast | None) -> None:
        """Say how long the run takes: below the bars, or in a line twice a minute."""
        now = self._clock()
        if self._console.is_terminal:
            self._bars.last_line = expected.text if expected else ""
        elif expected is not None and now - self._foreseen >= FORECAST_SECONDS:
            self._console.print(expected.text, soft_wrap=True, markup=False)
            self._foreseen = now

    def _show_line(self, stage: "Stage") -> None:
        """Print a line when a stage starts or ends, and every ten seconds while it runs."""
        now = self._clock()
        if self._is_news(stage):
            line = _line(stage)
        elif stage.state == "running" and now - self._printed >= LINE_SECONDS:
            line = f"{stage.title}: {self._progress(stage, now)}"
        else:
            return
        self._console.print(line, soft_wrap=True, markup=False)
        self._printed = now
        if stage.state == "running":
            self._starts.setdefault(stage.name, (now, stage.done))

    def _progress(self, stage: "Stage", now: float) -> str:
        """Return the share that is done and the time left, at the speed since the stage was first seen."""
        if not stage.total:
            counted = f"{amount(stage.done, stage.unit)}, " if stage.done and stage.unit else ""
            return f"{counted}running for {stage.seconds:.0f} s"
        started, done = self._starts[stage.name]
        share = f"{100 * stage.done / stage.total:.0f} %"
        if stage.done <= done:
            return share
        left = round((stage.total - stage.done) * (now - started) / (stage.done - done))
        return f"{share}, {timedelta(seconds=left)} left"

    def _is_news(self, stage: "Stage") -> bool:
        """True if a stage has started, or has ended since it was shown as running; earlier work is not news."""
        before = self._states.get(stage.name, "waiting")
        return stage.state == "running" != before or (before == "running" and stage.state in ("done", "failed"))

    def _show_bar(self, stage: "Stage") -> None:
        if stage.name not in self._tasks:
            self._tasks[stage.name] = self._bars.add_task(stage.title, total=1, start=False, mark="·", stage=stage)
        task_id = self._tasks[stage.name]
        if stage.state != "waiting" and self._states.get(stage.name, "waiting") == "waiting":
            # Time left is measured from here: what a resumed stage had done already is not speed.
            self._bars.reset(task_id, total=stage.total or None, completed=stage.done)
        if stage.state == "waiting":
            return
        self._bars.update(
            task_id,
            description=stage.title,  # which may say what the stage waits for
            total=stage.total or None,
            completed=stage.done,
            mark=_MARKS.get(stage.state, "·"),
            stage=stage,
        )
        if stage.state in ("done", "failed"):
            self._bars.stop_task(task_id)


_MARKS = {"waiting": "[dim]·[/]", "running": "[cyan]▸[/]", "done": "[green]✓[/]", "failed": "[red]✗[/]"}


def _line(stage: "Stage") -> str:
    """Return the line of a stage that has started or ended."""
    if stage.state == "done":
        return f"{stage.title}: done in {stage.seconds:.1f} s"
    return f"{stage.title}: {stage.state}"


class _Bars(Progress):
    """Bars with a line of text below them."""

    last_line = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.last_line:
            yield Text(self.last_line)


class _CountColumn(TextColumn):
    """Column of the count done and the total, in the stage's unit; empty where it counts nothing that has a name."""

    def render(self, task: Task) -> Text:
        stage: Stage = task.fields["stage"]
        if stage.state == "waiting" or not stage.total or not stage.unit:
            return Text("")
        if stage.state == "done":
            return Text(amount(stage.total, stage.unit), style="dim")
        return Text(
            f"{amount(stage.done, '' if stage.unit != 'bytes' else 'bytes')} / {amount(stage.total, stage.unit)}"
        )


class _TimeColumn(TextColumn):
    """Column of the time left while a stage runs, and the time taken afterwards."""

    def __init__(self) -> None:
        super().__init__("")
        self._left = TimeRemainingColumn(compact=True)
        self._elapsed = TimeElapsedColumn()

    def render(self, task: Task) -> Text:
        stage: Stage = task.fields["stage"]
        if stage.state == "done":
            return Text(f"{stage.seconds:.1f} s", style="dim")
        if stage.state != "running":
            return Text("")
        left = self._left.render(task)
        return left.append(" left", style="dim") if task.time_remaining else self._elapsed.render(task)
