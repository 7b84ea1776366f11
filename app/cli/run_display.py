"""Stages of a run in the terminal: bars with times left on a terminal, one line a stage where output is piped.

Everything goes to standard error: standard output is for results.
"""

import io
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import cache
from types import TracebackType
from typing import Any, Self

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, Progress, Task, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from app.queries.runs import Stage


@cache
def stderr_console() -> Console:
    """The process' console on standard error: one, so that lines and bars know of each other.

    It keeps the stream that it starts with: libraries that silence `sys.stderr` for a while do not silence it.
    """
    return Console(file=sys.stderr, highlight=False)


def amount(count: int, unit: str) -> str:
    """Say a count in its unit: "92.9 MB", "204,800 tokens"."""
    return decimal(count) if unit == "bytes" else f"{count:,} {unit}".rstrip()


_RESULT_ORDER = ("sae", "features", "tokens", "explained_variance", "l0", "dead_fraction")


def in_order(result: Mapping[str, Any], stages: Sequence[Stage]) -> dict[str, Any]:
    """A run's result as a person would list it; the database keeps no order of names."""
    names = [*(name for name in _RESULT_ORDER if name in result), *sorted(result.keys() - set(_RESULT_ORDER))]
    ordered = {name: result[name] for name in names}
    if "seconds" in ordered:
        seconds = ordered.pop("seconds")
        ordered["seconds"] = {stage.name: seconds[stage.name] for stage in stages if stage.name in seconds}
    return ordered


def result_text(result: Mapping[str, Any]) -> str:
    """A run's result for a person: a line each; metrics with intervals, and several SAEs, as a table."""
    lines = []
    for name, value in result.items():
        if name == "saes":
            lines.append(_saes_table(value))
            continue
        if name in ("intervals", *result.get("intervals", {})):
            continue
        if name == "seconds":
            shown = f"{sum(value.values()):.0f} in all"
        elif isinstance(value, float):
            shown = f"{value:.4g}"
        else:
            shown = f"{value:,}" if isinstance(value, int) else str(value)
        lines.append(f"{name.replace('_', ' '):>20}  {shown}")
    if "intervals" in result:
        lines.append(_metrics_table(result))
    return "\n".join(lines)


def _metrics_table(result: Mapping[str, Any]) -> str:
    """What `seesae evaluate` measured, in reading order."""
    from sae_core.evaluation import Evaluation  # loaded already by who evaluated

    known = {entry.name for entry in fields(Evaluation)}
    evaluation = Evaluation(**{name: value for name, value in result.items() if name in known})
    table = Table("metric", box=SIMPLE_HEAD)
    for name in ("value", "95 % interval", "tokens"):
        table.add_column(name, justify="right")
    for row in evaluation.rows():
        interval = "" if row.low is None or row.high is None else f"{row.low:.4g} – {row.high:.4g}"
        table.add_row(row.name.replace("_", " "), f"{row.value:.4g}", interval, f"{row.tokens:,}" if row.tokens else "")
    return _plain(table)


def _saes_table(results: Sequence[Mapping[str, Any]]) -> str:
    """The SAEs that one run trained."""
    table = Table("sae", box=SIMPLE_HEAD)
    for name in ("features", "explained variance", "l0"):
        table.add_column(name, justify="right")
    for result in results:
        figures = (f"{result['explained_variance']:.4g}", f"{result['l0']:.4g}")
        table.add_row(result["sae"], f"{result['features']:,}", *figures)
    return _plain(table)


def _plain(table: Table) -> str:
    """As text, without colours and however wide it is: it goes to standard output."""
    console = Console(file=io.StringIO(), width=200, color_system=None)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())


class StageDisplay:
    """Shows the stages it is given; use as a context manager and call `show` as often as there is news."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._tasks: dict[str, TaskID] = {}
        self._states: dict[str, str] = {}
        self._bars = Progress(
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

    def show(self, stages: Sequence[Stage]) -> None:
        """Bring the display up to date."""
        for stage in stages:
            if self._console.is_terminal:
                self._show_bar(stage)
            elif self._is_news(stage):
                self._console.print(_line(stage), soft_wrap=True)
            self._states[stage.name] = stage.state

    def _is_news(self, stage: Stage) -> bool:
        """Whether a stage has started, or has ended since it was seen to run; what was done before is no news."""
        before = self._states.get(stage.name, "waiting")
        return stage.state == "running" != before or (before == "running" and stage.state in ("done", "failed"))

    def _show_bar(self, stage: Stage) -> None:
        if stage.name not in self._tasks:
            self._tasks[stage.name] = self._bars.add_task(stage.title, total=1, start=False, mark="·", stage=stage)
        task_id = self._tasks[stage.name]
        if stage.state != "waiting" and self._states.get(stage.name, "waiting") == "waiting":
            # Times are measured from what is done already: a resumed stage must not claim that as speed.
            self._bars.reset(task_id, total=stage.total or None, completed=stage.done)
        if stage.state == "waiting":
            return
        self._bars.update(
            task_id, total=stage.total or None, completed=stage.done, mark=_MARKS.get(stage.state, "·"), stage=stage
        )
        if stage.state in ("done", "failed"):
            self._bars.stop_task(task_id)


_MARKS = {"waiting": "[dim]·[/]", "running": "[cyan]▸[/]", "done": "[green]✓[/]", "failed": "[red]✗[/]"}


def _line(stage: Stage) -> str:
    """One stage, said once when it starts and once when it ends."""
    if stage.state == "done":
        return f"{stage.title}: done in {stage.seconds:.1f} s"
    return f"{stage.title}: {stage.state}"


class _CountColumn(TextColumn):
    """Done and total in the stage's unit."""

    def render(self, task: Task) -> Text:
        stage: Stage = task.fields["stage"]
        if stage.state == "waiting" or not stage.total:
            return Text("")
        if stage.state == "done":
            return Text(amount(stage.total, stage.unit), style="dim")
        return Text(
            f"{amount(stage.done, '' if stage.unit != 'bytes' else 'bytes')} / {amount(stage.total, stage.unit)}"
        )


class _TimeColumn(TextColumn):
    """Time left while a stage runs, time taken afterwards."""

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
