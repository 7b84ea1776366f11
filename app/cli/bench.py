"""seesae bench."""

import asyncio
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any

import typer

from app.cli.options import Json
from app.cli.outcome import FAILED, INTERRUPTED, answer, notify, report_user_errors
from app.cli.processes import settings_with

group = typer.Typer(help="Measure how fast SeeSAE is on this machine.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the group."""
    app.add_typer(group, name="bench", rich_help_panel="Maintenance")


@group.command()
@report_user_errors
def web(
    saes: Annotated[int, typer.Option(min=1, max=1000, help="SAEs to fill in.")] = 16,
    features: Annotated[int, typer.Option(min=64, max=1_048_576, help="Features of each SAE.")] = 65_536,
    clients: Annotated[int, typer.Option(min=1, max=1000, help="Number of concurrent visitors.")] = 32,
    seconds: Annotated[float, typer.Option(min=1, help="Duration in seconds.")] = 20.0,
    pause: Annotated[
        float,
        typer.Option(
            min=0, help="Seconds that each person looks at a page, on average; 0 asks as fast as the server answers."
        ),
    ] = 1.0,
    as_json: Json = False,
) -> None:
    """Browse a site of a million synthetic features with many people at a time.

    Fills a scratch database beside the real one, starts as many web processes as seesae serve does (the setting
    SEESAE_WEB_PROCESSES), opens random pages of features and lists
    with filters, and drops the database. Times are the server's own; p95 is the 95th percentile.

    Example: seesae bench web --saes 2 --features 8192 --seconds 10
    """
    from app.bench.scratch_database import Plan
    from app.bench.web import run
    from app.supervision.web_processes import number_of_web_processes

    settings = settings_with()
    try:
        plan = Plan(saes, features, clients, seconds, pause, number_of_web_processes(settings))
        result = run(settings, plan, notify)
    except KeyboardInterrupt:
        notify("Stopped; the scratch database is gone.")
        raise typer.Exit(INTERRUPTED) from None
    _answer(result, as_json)


@group.command()
@report_user_errors
def train(
    architecture: Annotated[str, typer.Option(help="Architecture to train.")] = "batchtopk",
    width: Annotated[int, typer.Option(min=64, help="Number of features.")] = 8192,
    k: Annotated[int, typer.Option(min=1, help="Active features per token.")] = 32,
    batch: Annotated[int, typer.Option(min=2, help="Activations per step.")] = 2048,
    tokens: Annotated[int, typer.Option(min=4096, help="Tokens whose activations are held in memory.")] = 65_536,
    as_json: Json = False,
) -> None:
    """Train on activations in memory: samples per second, beside the encoder's matrix product alone.

    Example: seesae bench train --architecture topk --width 16384
    """
    from app.bench.train import run

    _answer(run(settings_with(), architecture, width, k, batch, tokens, notify), as_json)


@group.command()
@report_user_errors
def index(
    width: Annotated[int, typer.Option(min=64, help="Number of features.")] = 8192,
    k: Annotated[int, typer.Option(min=1, help="Active features per token.")] = 32,
    tokens: Annotated[int, typer.Option(min=4096, help="Tokens to index.")] = 262_144,
    rounds: Annotated[int, typer.Option(min=1, help="Repetitions of each measurement.")] = 5,
    as_json: Json = False,
) -> None:
    """Index all features of an SAE over a corpus: time and memory, beside the model's forward pass alone.

    Example: seesae bench index --tokens 65536 --rounds 1
    """
    from app.bench.index import run

    _answer(run(settings_with(), width, k, tokens, rounds, notify), as_json)


@group.command()
@report_user_errors
def probe(
    sae: Annotated[str | None, typer.Option(help="Slug of the SAE.", show_default="the demo's newest")] = None,
    tokens: Annotated[int, typer.Option(min=2, help="Tokens of the prompt.")] = 64,
    rounds: Annotated[int, typer.Option(min=5, help="Number of timed probes.")] = 40,
    people: Annotated[int, typer.Option(min=0, max=64, help="People who then probe at once; 0 for none.")] = 32,
    as_json: Json = False,
) -> None:
    """Probe a prompt through the running site, beside the model's forward pass alone; then with many people at once.

    Example: seesae bench probe --tokens 128
    """
    from app.bench.probe import run

    _answer(asyncio.run(run(settings_with(), sae, tokens, rounds, people, notify)), as_json)


@group.command()
@report_user_errors
def generate(
    width: Annotated[int, typer.Option(min=64, help="Number of features of the SAE.")] = 8192,
    prompt: Annotated[int, typer.Option(min=1, help="Tokens of the prompt.")] = 32,
    tokens: Annotated[int, typer.Option(min=8, help="Tokens to write after it.")] = 64,
    rounds: Annotated[int, typer.Option(min=1, help="Repetitions of each measurement.")] = 5,
    as_json: Json = False,
) -> None:
    """Generate with features changed and without, beside the model's own greedy loop in transformers; then watched.

    Example: seesae bench generate --tokens 128
    """
    from app.bench.generate import run

    _answer(run(settings_with(), width, prompt, tokens, rounds, notify), as_json)


@group.command(name="first-run")
@report_user_errors
def first_run(
    tokens: Annotated[
        int | None, typer.Option(min=4096, help="Tokens of the demo's text.", show_default="the demo's")
    ] = None,
    width: Annotated[int | None, typer.Option(min=64, help="Number of features.", show_default="the demo's")] = None,
    as_json: Json = False,
) -> None:
    """Do the demo in an empty home, as a new user does: to the first feature page, and then to the first probe.

    Packages that this home has fetched are used; everything else is made anew, and removed at the end.

    Example: seesae bench first-run --tokens 16384 --width 512
    """
    from app.bench.first_run import run

    given = {"--tokens": tokens, "--width": width}
    options = [text for name, value in given.items() if value is not None for text in (name, str(value))]
    _answer(run(settings_with(), options, notify), as_json)


@group.command(name="all")
@report_user_errors
def every(
    only: Annotated[
        list[str] | None, typer.Option(help="Name of a benchmark to run; may be repeated.", show_default="all")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 if a target is missed.")] = False,
    as_json: Json = False,
) -> None:
    """Run all benchmarks, and end with every target beside its figure.

    Targets are those of an idle machine with two cores, on which this takes about half an hour. A benchmark that fails
    makes the command exit with 1; a target that is missed does so with --strict alone.

    Example: seesae bench all --only train --only web
    """
    from app.bench.every import run
    from app.bench.targets import rows, table

    results = run(only or [], notify)
    found = rows(results)
    states = [row.state for row in found]
    lines = [table(found), f"{states.count('met')} met, {states.count('missed')} missed"]
    written = {"results": results, "targets": [asdict(row) for row in found]}
    answer(written, as_json=as_json, text="\n\n".join(lines))
    if "failed" in states or (strict and "missed" in states):
        raise typer.Exit(FAILED)


def _answer(result: Mapping[str, Any], as_json: bool) -> None:
    shown = {name: value for name, value in result.items() if not isinstance(value, dict)}
    answer(result, as_json=as_json, text="\n".join(f"{name:>20}  {value}" for name, value in shown.items()))
