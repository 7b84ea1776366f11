"""Results of runs as text for a person."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from app.cli.run_options import name_options
from app.queries.runs import RunView
from app.runs.spec import RunSpec, is_known, spec_of

if TYPE_CHECKING:
    from app.queries.people import AccountView
    from app.storage.survey import Item


def ordered_result(spec: RunSpec[Any], run: RunView) -> dict[str, Any]:
    """Return a run's result in reading order; the seconds of its stages come last, in their order."""
    assert run.result is not None
    result = spec.order(run.result)
    seconds = result.pop("seconds", None)
    if seconds is not None:
        result["seconds"] = {stage.name: seconds[stage.name] for stage in run.stages if stage.name in seconds}
    return result


def full_text(spec: RunSpec[Any], result: Mapping[str, Any]) -> str:
    """Return a result with its notes and the next step, a line each."""
    notes = result.get("notes", [])
    text = result_text({name: value for name, value in result.items() if name != "notes"})
    return "\n".join(line for line in [text, *map(name_options, notes), spec.next_step(result)] if line is not None)


def runs_table(runs: Sequence[RunView]) -> str:
    """Return runs as a table."""
    table = Table("run", "state", "kind", "title", box=SIMPLE_HEAD)
    for run in runs:
        state = f"{run.state}, {run.queue_position}" if run.queue_position else run.state
        table.add_row(str(run.id), state, run.kind, Text(run.title))
    return _plain(table)


def items_table(items: "Sequence[Item]") -> str:
    """Return files and folders as a table: size, path, and why nothing needs them."""
    table = Table("size", "folder", "why it is not needed", box=SIMPLE_HEAD)
    table.columns[0].justify = "right"
    for item in items:
        table.add_row(decimal(item.size), Text(f"{item.path.parent.name}/{item.path.name}"), item.reason)
    return _plain(table)


def people_table(accounts: "Sequence[AccountView]") -> str:
    """Return accounts as a table: name, role, whether they can be used, and when they last were."""
    table = Table("name", "role", "state", "last seen", box=SIMPLE_HEAD)
    for one in accounts:
        waiting = "" if one.has_password or one.oidc_issuer else "no password"
        state = "disabled" if one.disabled_at else waiting
        table.add_row(Text(one.name), one.role, state, f"{one.seen_at:%Y-%m-%d %H:%M}" if one.seen_at else "never")
    return _plain(table)


def candidates_table(candidates: "Sequence[Mapping[str, Any]]", used: str) -> str:
    """Return a monitor's candidates as a table: AUROC, recall and false positives on the texts that were held out."""
    table = Table("candidate", "AUROC", "recall", "false positives", box=SIMPLE_HEAD)
    for one in candidates:
        test = one["test"]
        low, high = test["auroc_interval"]
        shares = (f"{share['value']:.1%}" for share in (test["recall"], test["false_positives"]))
        name = f"{one['title']}{', in use' if one['name'] == used else ''}"
        table.add_row(Text(name), f"{test['auroc']:.3f} ({low:.3f} to {high:.3f})", *shares)
    return _plain(table)


def run_text(run: RunView) -> str:
    """Return one run as lines: its state, its stages, and its result or why it failed."""
    place = f", number {run.queue_position} in the queue" if run.queue_position else ""
    lines = [f"Run {run.id}: {run.title}", f"{run.state}{place}" + (f", by {run.worker}" if run.worker else "")]
    for stage in run.stages:
        done = f" {stage.done / stage.total:.0%}" if stage.total and stage.state == "running" else ""
        lines.append(f"{stage.state:>9}{done}  {stage.title}")
    lines += [name_options(run.error)] if run.error else []
    if run.result is not None and is_known(run.kind):
        spec = spec_of(run.kind)
        lines.append(full_text(spec, ordered_result(spec, run)))
    return "\n".join(lines)


def result_text(result: Mapping[str, Any]) -> str:
    """Return a result as lines of names and values; metrics with intervals, and several SAEs, as a table.

    What holds figures of its own, or rows, is left to --json; a verdict says it in words.
    """
    lines = []
    for name, value in result.items():
        if name == "saes":
            lines.append(_saes_table(value))
            continue
        if name in ("intervals", *result.get("intervals", {})):
            continue
        if name == "seconds":
            shown = f"{sum(value.values()):.0f} in all"
        elif isinstance(value, float | None):
            shown = _figure(value)
        elif isinstance(value, Mapping):
            shown = (
                "with --json"
                if any(isinstance(inner, float | Mapping) for inner in value.values())
                else ", ".join(value)
            )
        elif isinstance(value, list):
            rows = bool(value) and isinstance(value[0], Mapping)
            shown = f"{len(value)}, with --json" if rows else ", ".join(map(_item, value))
        else:
            shown = f"{value:,}" if isinstance(value, int) else str(value)
        lines.append(f"{name.replace('_', ' '):>20}  {shown}")
    if "intervals" in result:
        lines.append(_metrics_table(result))
    return "\n".join(lines)


def _metrics_table(result: Mapping[str, Any]) -> str:
    """Return the metrics of an evaluation with their intervals, in reading order."""
    from sae_core.evaluation import Evaluation  # loaded already by who evaluated

    known = {entry.name for entry in fields(Evaluation)}
    evaluation = Evaluation(**{name: value for name, value in result.items() if name in known})
    table = Table("metric", box=SIMPLE_HEAD)
    for name in ("value", "95 % interval", "tokens"):
        table.add_column(name, justify="right")
    for row in evaluation.rows():
        interval = "" if row.low is None or row.high is None else f"{_figure(row.low)} – {_figure(row.high)}"
        table.add_row(row.name.replace("_", " "), _figure(row.value), interval, f"{row.tokens:,}" if row.tokens else "")
    return _plain(table)


def _saes_table(results: Sequence[Mapping[str, Any]]) -> str:
    """Return the SAEs that one run trained or indexed."""
    table = Table("sae", box=SIMPLE_HEAD)
    table.add_column("features", justify="right")
    measured = [name for name in ("explained_variance", "l0") if name in results[0]]
    for name in measured:
        table.add_column(name.replace("_", " "), justify="right")
    for result in results:
        table.add_row(result["sae"], f"{result['features']:,}", *(_figure(result[name]) for name in measured))
    return _plain(table)


def _figure(value: float | None) -> str:
    """Return a measured number with four digits; empty for one that could not be measured, which is kept as null."""
    return "" if value is None else f"{value:.4g}"


def _item(value: object) -> str:
    return _figure(value) if isinstance(value, float) else str(value)


def _plain(table: Table) -> str:
    """Return a table as text for standard output: without colours, and as wide as it needs."""
    console = Console(file=io.StringIO(), width=200, color_system=None)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())
