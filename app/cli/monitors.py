"""seesae monitor: make monitors, check and scan texts with them, and see their alerts."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.options import Device, Json, Yes
from app.cli.outcome import answer, notify, report_user_errors, say
from app.cli.processes import settings_with
from app.cli.run_commands import run_command
from app.cli.sessions import local_session
from app.pipeline.monitor import MONITOR
from app.pipeline.monitor_scan import MONITOR_SCAN

if TYPE_CHECKING:
    from app.queries.monitors import MonitorView
    from app.services.monitor_checks import CheckedText
    from app.settings import Settings

group = typer.Typer(help="Monitors: score texts by a model's activations, and alert.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="Name of the monitor.", metavar="NAME", show_default=False)]


def register(app: typer.Typer) -> None:
    """Add the group."""
    group.command("add", help=MONITOR.help)(run_command(MONITOR))
    group.command("scan", help=MONITOR_SCAN.help)(run_command(MONITOR_SCAN))
    app.add_typer(group, name="monitor", rich_help_panel="Work")


@group.command("list")
@report_user_errors
def list_(as_json: Json = False) -> None:
    """List the monitors."""
    asyncio.run(_list(as_json))


async def _list(as_json: bool) -> None:
    from app.queries.monitors import list_monitors

    async with local_session(settings_with()) as session:
        found, _ = await list_monitors(session, limit=1_000_000)
    lines = [_line(monitor) for monitor in found] or ["No monitors yet. Make one: seesae monitor add SAE toxic-text"]
    answer({"monitors": [_summary(monitor) for monitor in found]}, as_json=as_json, text="\n".join(lines))


@group.command()
@report_user_errors
def show(name: Name, as_json: Json = False) -> None:
    """Show a monitor with its figures, and what does better or worse."""
    asyncio.run(_show(name, as_json))


async def _show(name: str, as_json: bool) -> None:
    from app.cli.result_text import candidates_table
    from app.services.monitors import candidate_of, drift_of, find_monitor

    async with local_session(settings_with()) as session:
        monitor = await find_monitor(session, name)
        drift = await drift_of(session, monitor)
    used = candidate_of(monitor)
    table = candidates_table(monitor.figures["candidates"], monitor.candidate)
    lines = [_line(monitor), _thresholds(used), *used["cautions"], "", "On texts that were held out:", table]
    candidates = [{**one, "test": _without_roc(one["test"])} for one in monitor.figures["candidates"]]
    result = {**_summary(monitor), "candidates": candidates, "drift": None if drift is None else asdict(drift)}
    answer(result, as_json=as_json, text="\n".join(lines))


@group.command()
@report_user_errors
def check(
    name: Name,
    text: Annotated[list[str] | None, typer.Option(help="A text; may be given several times.")] = None,
    file: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="One text per line; or .jsonl, or .csv with a column text."),
    ] = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Score some texts with a monitor; the model is loaded here, beside a site that may be running.

    Scores are kept for the monitor's rate and drift. Texts are not, unless one alerts and the monitor keeps texts.

    Examples:
      seesae monitor check toxic-text --text "Have a nice day."
    """
    from app.cli.probe import read_texts
    from app.logging import configure

    texts = [*(text or ()), *(read_texts(file) if file else ())]
    if not texts:
        raise typer.BadParameter("Give --text, or --file with at least one text.")
    configure("error")
    asyncio.run(_check(settings_with(device=device), name, texts, as_json))


async def _check(settings: "Settings", name: str, texts: list[str], as_json: bool) -> None:
    from secrets import token_hex

    import httpx
    from pydantic import SecretStr

    from app.db import create_engine, create_sessionmaker
    from app.inference.server import create_app
    from app.services.inference import InferenceClient
    from app.services.monitor_checks import MAX_TEXTS, check_texts
    from app.services.monitors import find_monitor
    from app.supervision.embedded_postgres import database

    with database(settings.home, settings.database_url) as url:
        own = {"database_url": url, "inference_url": "http://inference", "inference_secret": SecretStr(token_hex(16))}
        settings = settings.model_copy(update=own)
        service, engine = create_app(settings), create_engine(url)
        inference = InferenceClient(settings, transport=httpx.ASGITransport(service))
        try:
            found: list[CheckedText] = []
            for start in range(0, len(texts), MAX_TEXTS):
                async with create_sessionmaker(engine).begin() as session:
                    monitor = await find_monitor(session, name)
                    if start == 0:
                        notify(f"Loading {monitor.model}")
                async with create_sessionmaker(engine)() as session:
                    found += await check_texts(session, inference, monitor, texts[start : start + MAX_TEXTS])
                    await session.commit()
        finally:
            await inference.close()
            await engine.dispose()
            await service.state.engine.dispose()
    results = [
        {
            "score": one.score,
            "threshold": one.threshold,
            "alert": one.alert,
            "probe_score": one.probe_score,
            "features": [{"feature": feature, "activation": value} for feature, value in one.features],
        }
        for one in found
    ]
    lines = [f"{'':<6}{'score':>10}  text; it alerts above {found[0].threshold:.4g}"]
    lines += [
        f"{'alert' if one.alert else '-':<6}{one.score:>10.4g}  {' '.join(words.split())[:80]}"
        for one, words in zip(found, texts, strict=True)
    ]
    answer({"monitor": name, "results": results}, as_json=as_json, text="\n".join(lines))


@group.command()
@report_user_errors
def alerts(
    name: Name,
    run: Annotated[int | None, typer.Option(help="Only those of this scan.")] = None,
    as_json: Json = False,
) -> None:
    """Write the alerts as JSON lines, newest first; with --json as one object.

    Examples:
      seesae monitor alerts toxic-text --run 12 > alerts.jsonl
    """
    asyncio.run(_alerts(name, run, as_json))


async def _alerts(name: str, run: int | None, as_json: bool) -> None:
    from app.queries.monitors import list_alerts
    from app.services.monitors import find_monitor

    rows: list[dict[str, Any]] = []
    async with local_session(settings_with()) as session:
        monitor = await find_monitor(session, name)
        before: int | None = None
        while True:
            found, before = await list_alerts(session, monitor.id, limit=500, before=before, run_id=run)
            for alert in found:
                row = json.loads(json.dumps(asdict(alert), default=str))
                if as_json:
                    rows.append(row)
                else:
                    say(json.dumps(row, ensure_ascii=False))
            if before is None:
                break
    if as_json:
        say(json.dumps({"monitor": monitor.name, "alerts": rows}))


@group.command()
@report_user_errors
def delete(
    name: Name,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Delete a monitor with its alerts."""
    if not yes:
        typer.confirm(f"Delete the monitor {name} with all its alerts?", abort=True, err=True)
    asyncio.run(_delete(name, as_json))


async def _delete(name: str, as_json: bool) -> None:
    from app.services.actors import local_actor
    from app.services.monitors import delete_monitor, find_monitor

    settings = settings_with()
    async with local_session(settings) as session:
        monitor = await find_monitor(session, name)
        await delete_monitor(session, monitor, actor=local_actor(settings))
    answer({"deleted": monitor.name}, as_json=as_json, text=f"Deleted {monitor.name}.")


def _line(monitor: "MonitorView") -> str:
    seen = f"{monitor.alerts:,} alerts on {monitor.checked:,} texts" if monitor.checked else "nothing scored yet"
    return f"{monitor.name}: {monitor.candidate} of {monitor.sae}, {monitor.state}, {seen}"


def _thresholds(used: Mapping[str, Any]) -> str:
    """Say above which scores it alerts, and on how many benign texts that rests."""
    parts = [("whole text", used["threshold"], used["calibration"])]
    if live := used.get("live"):
        parts.append(("text that grows", live["threshold"], live))
    return "\n".join(
        f"A {what} alerts above {threshold:.4g}, as {found['exceeding']} of {found['texts']:,} benign ones did: "
        f"{found['interval'][0]:.2%} to {found['interval'][1]:.2%}."
        for what, threshold, found in parts
    )


def _summary(monitor: "MonitorView") -> dict[str, Any]:
    names = ("name", "state", "sae", "sae_state", "model", "on", "candidate", "threshold", "fpr", "tokens", "pool")
    seen = ("checked", "alerts", "unacknowledged")
    return {name: getattr(monitor, name) for name in (*names, *seen)}


def _without_roc(performance: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in performance.items() if name != "roc"}
