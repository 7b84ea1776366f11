"""seesae train, index and evaluate: long work in this process, with progress here and on the site."""

import asyncio
import json
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.options import Corpus, Device, Json, Length, Tokens
from app.cli.outcome import answer, ends_in_one_line
from app.cli.processes import settings_with

if TYPE_CHECKING:
    from app.jobs.params import Params
    from app.queries.runs import RunKind, Stage
    from app.settings import Settings

Sae = Annotated[
    str, typer.Argument(help="Slug of the SAE, such as smollm2-135m-l9-batchtopk-4096.", show_default=False)
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    panel = "Work"
    app.command(rich_help_panel=panel)(train)
    app.command(rich_help_panel=panel)(index)
    app.command(rich_help_panel=panel)(evaluate)


@ends_in_one_line
def train(
    config: Annotated[
        Path | None, typer.Option(help="A .toml or .json file with these options by name; options given here win.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="A GGUF file, a folder, a model of the hub, or smollm2-135m, which needs no hub."),
    ] = None,
    hook: Annotated[str | None, typer.Option(help="Where activations are read: resid_post.9, mlp_out.3, …")] = None,
    corpus: Annotated[
        str | None,
        typer.Option(
            help="A text file (.json, .jsonl, .csv, .parquet, .txt), a data set of the hub, or wikipedia-summaries."
        ),
    ] = None,
    architecture: Annotated[
        str | None, typer.Option(help="batchtopk, topk or standard.", show_default="batchtopk")
    ] = None,
    width: Annotated[int | None, typer.Option(help="Number of features.", show_default="4096")] = None,
    k: Annotated[
        int | None, typer.Option(help="Active features per token (batchtopk, topk).", show_default="32")
    ] = None,
    l1_coefficient: Annotated[
        float | None, typer.Option(help="Sparsity penalty (standard).", show_default="5.0")
    ] = None,
    tokens: Tokens = None,
    length: Annotated[int | None, typer.Option(help="Tokens in a sequence.", show_default="128")] = None,
    samples: Annotated[
        int | None, typer.Option(help="Activations to train on in all.", show_default="five passes over the corpus")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Activations in a step.", show_default="2048")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.", show_default="by the width")] = None,
    seed: Annotated[int | None, typer.Option(help="Of start values and order.", show_default="0")] = None,
    name: Annotated[
        str | None, typer.Option(help="Slug of the SAE.", show_default="model, layer, architecture, width")
    ] = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Train an SAE on a model's activations over a corpus.

    Interrupted, the same command goes on from its last checkpoint. The run shows on the site too.

    Example: seesae train --model smollm2-135m --hook resid_post.9 --corpus wikipedia-summaries --width 8192
    """
    given = {
        "model": model,
        "hook": hook,
        "corpus": corpus,
        "architecture": architecture,
        "width": width,
        "k": k,
        "l1_coefficient": l1_coefficient,
        "tokens": tokens,
        "length": length,
        "samples": samples,
        "batch_size": batch_size,
        "lr": lr,
        "seed": seed,
        "name": name,
    }
    options = _read_config(config) | {key: value for key, value in given.items() if value is not None}
    from app.jobs.params import TrainParams
    from app.jobs.plans import TRAIN

    params = _validated(TrainParams, options)
    title = f"Train {params.name or params.architecture} on {params.model} {params.hook}, {params.width:,} features"
    _run(settings_with(device=device), "train", title, params, TRAIN, as_json)


@ends_in_one_line
def index(
    sae: Sae,
    corpus: Corpus = "wikipedia-summaries",
    tokens: Tokens = None,
    length: Length = 128,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Compute the statistics of all features of an SAE over a corpus, and publish them.

    The site shows the former index until the new one is whole. Interrupted, the same command goes on.

    Example: seesae index smollm2-135m-l9-batchtopk-4096 --corpus texts.jsonl
    """
    from app.jobs.params import IndexParams
    from app.jobs.plans import INDEX

    params = _validated(IndexParams, {"sae": sae, "corpus": corpus, "tokens": tokens, "length": length})
    _run(settings_with(device=device), "index", f"Index {sae} on {corpus}", params, INDEX, as_json)


@ends_in_one_line
def evaluate(
    sae: Sae,
    corpus: Corpus = "wikipedia-summaries",
    tokens: Tokens = None,
    length: Length = 128,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Measure an SAE on held-out text: explained variance, L0, cross-entropy recovered and more.

    Example: seesae evaluate smollm2-135m-l9-batchtopk-4096 --corpus wikipedia-summaries --json
    """
    from app.jobs.params import EvaluateParams
    from app.jobs.plans import EVALUATE

    params = _validated(EvaluateParams, {"sae": sae, "corpus": corpus, "tokens": tokens, "length": length})
    _run(settings_with(device=device), "evaluate", f"Evaluate {sae} on {corpus}", params, EVALUATE, as_json)


def _read_config(path: Path | None) -> dict[str, Any]:
    """Options from a file."""
    if path is None:
        return {}
    try:
        text = path.read_text(encoding="utf-8")
        options = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"{path} cannot be read: {error}", param_hint="--config") from None
    if not isinstance(options, dict):
        raise typer.BadParameter(f"{path} must hold options by name.", param_hint="--config")
    return options


def _validated(kind: Any, options: dict[str, Any]) -> Any:
    """The parameters, or bad usage naming the option that is missing or wrong."""
    from pydantic import ValidationError

    try:
        return kind.model_validate(options)
    except ValidationError as error:
        first = error.errors()[0]
        option = "--" + ".".join(str(part) for part in first["loc"]).replace("_", "-")
        raise typer.BadParameter(first["msg"], param_hint=option) from None


def _run(
    settings: "Settings", kind: "RunKind", title: str, params: "Params", stages: "Sequence[Stage]", as_json: bool
) -> None:
    """Do a run here, with bars, and end with its result."""
    from app.jobs.local import run_here
    from app.logging import configure
    from app.terminal import StageDisplay, in_order, result_text, stderr_console

    configure("error")
    with StageDisplay(stderr_console()) as display:
        run = asyncio.run(run_here(settings, display, kind=kind, title=title, params=params, stages=stages))
    assert run.result is not None
    result = in_order(run.result, run.stages)
    answer(result, as_json=as_json, text=result_text(result))
