"""seesae train, index, evaluate and compare: long work in this process, with progress here and on the site."""

import json
import os
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.options import Corpus, Device, Json, Length, Tokens
from app.cli.outcome import answer, report_user_errors
from app.cli.processes import settings_with
from app.cli.runs import absolute, do_run, validated

if TYPE_CHECKING:
    from app.queries.runs import RunKind, Stage
    from app.runs.params import Params
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
    app.command(rich_help_panel=panel)(compare)


@report_user_errors
def train(
    config: Annotated[
        Path | None, typer.Option(help="A .toml or .json file with these options by name; options given here win.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="A GGUF file, a folder, a model of the hub, or smollm2-135m, which needs no hub."),
    ] = None,
    hook: Annotated[str | None, typer.Option(help="Where activations are read: resid_post.9, mlp_out.3, …")] = None,
    hook_out: Annotated[
        str | None,
        typer.Option(help="What to reconstruct from them, such as mlp_out.9 from mlp_in.9: trains a transcoder."),
    ] = None,
    skip: Annotated[
        bool | None, typer.Option("--skip/--no-skip", help="Give a transcoder a skip connection.", show_default=False)
    ] = None,
    corpus: Annotated[
        str | None,
        typer.Option(
            help="A text file (.json, .jsonl, .csv, .parquet, .txt), a data set of the hub, or wikipedia-summaries."
        ),
    ] = None,
    architecture: Annotated[
        str | None,
        typer.Option(
            help="batchtopk, matryoshka, topk, jumprelu, gated or standard; several: batchtopk,topk.",
            show_default="batchtopk",
        ),
    ] = None,
    width: Annotated[
        str | None, typer.Option(help="Number of features; several: 4096,8192.", show_default="4096")
    ] = None,
    k: Annotated[
        str | None,
        typer.Option(help="Active features per token (not gated, standard); several: 32,64.", show_default="32"),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="An option of the architecture, such as l1_coefficient=2 or prefixes=0.1,0.5,1; may be repeated.",
        ),
    ] = None,
    tokens: Tokens = None,
    length: Annotated[int | None, typer.Option(help="Tokens in a sequence.", show_default="128")] = None,
    samples: Annotated[
        int | None, typer.Option(help="Activations to train on in all.", show_default="five passes over the corpus")
    ] = None,
    batch_size: Annotated[int | None, typer.Option(help="Activations in a step.", show_default="2048")] = None,
    accumulate: Annotated[
        int | None, typer.Option(help="Parts that a batch is taken in, to save memory.", show_default="1")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="Of products: float32, tf32 or bf16.", show_default="float32")
    ] = None,
    compile: Annotated[
        bool | None,
        typer.Option(
            "--compile", help="Compile the step of gated or standard; needs a C++ compiler.", show_default=False
        ),
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.", show_default="by the width")] = None,
    clip: Annotated[
        float | None, typer.Option(help="Largest norm of the gradient.", show_default="by the size")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of start values and order.", show_default="0")] = None,
    stream: Annotated[
        bool | None,
        typer.Option(
            "--stream/--cache",
            help="Run the model as activations are needed, or once, to the disk.",
            show_default="--cache",
        ),
    ] = None,
    buffer_mb: Annotated[
        int | None, typer.Option(help="Memory for activations with --stream, in MB.", show_default="1024")
    ] = None,
    feature_shards: Annotated[
        int | None,
        typer.Option(
            help="Under torchrun, processes that share one dictionary; others share the batch.", show_default="1"
        ),
    ] = None,
    track: Annotated[
        str | None, typer.Option(help="Where else the curves go: tensorboard, wandb, or both by a comma.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Slug of the SAE.", show_default="model, layer, architecture, width, k")
    ] = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Train SAEs on a model's activations over a corpus.

    Several architectures, widths or k give an SAE for each combination; the model runs once for all of them.
    Interrupted, the same command goes on from its last checkpoint. The run shows on the site too. Beside the weights
    lies train.json, which --config takes to train the same SAE again.

    Examples:
      seesae train --model smollm2-135m --hook resid_post.9 --corpus wikipedia-summaries --width 8192
      seesae train --config sweep.toml --width 4096,8192 --k 32,64
      seesae train --config mlp.toml --hook mlp_in.9 --hook-out mlp_out.9 --skip --architecture topk
      torchrun --nproc-per-node 4 -m app.cli train --config big.toml --feature-shards 2
    """
    given = {
        "model": model,
        "hook": hook,
        "hook_out": hook_out,
        "skip": skip,
        "corpus": corpus,
        "architecture": architecture,
        "width": width,
        "k": k,
        "options": _set_options(set_),
        "tokens": tokens,
        "length": length,
        "samples": samples,
        "batch_size": batch_size,
        "accumulate": accumulate,
        "precision": precision,
        "compile": compile,
        "lr": lr,
        "clip": clip,
        "seed": seed,
        "stream": stream,
        "buffer_mb": buffer_mb,
        "feature_shards": feature_shards,
        "track": track,
        "name": name,
    }
    options = _read_config(config) | {key: value for key, value in given.items() if value is not None}
    options |= {key: absolute(options[key]) for key in ("model", "corpus") if isinstance(options.get(key), str)}
    from app.runs.params import TrainParams
    from app.runs.stages import TRAIN

    params = validated(TrainParams, options)
    if int(os.environ.get("RANK", "0")) > 0:
        from app.pipeline.distributed import run_worker_rank

        run_worker_rank(params.feature_shards)
        return
    place = params.hook if params.hook_out is None else f"{params.hook} to {params.hook_out}"
    widths = " and ".join(f"{each:,}" for each in params.width)
    title = f"Train {params.name or ', '.join(params.architecture)} on {params.model} {place}, {widths} features"
    _run(settings_with(device=device), "train", title, params, TRAIN, as_json)


def _set_options(given: list[str] | None) -> dict[str, float | list[float]] | None:
    """`NAME=VALUE` as a number, or as several where there is a comma."""
    if given is None:
        return None
    options: dict[str, float | list[float]] = {}
    for each in given:
        name, _, value = each.partition("=")
        try:
            numbers = [float(part) for part in value.split(",")]
        except ValueError:
            raise typer.BadParameter(f"{each!r} is not NAME=VALUE with a number.", param_hint="--set") from None
        options[name.strip().replace("-", "_")] = numbers if "," in value else numbers[0]
    return options


@report_user_errors
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
    from app.runs.params import IndexParams
    from app.runs.stages import INDEX

    params = validated(IndexParams, {"sae": sae, "corpus": absolute(corpus), "tokens": tokens, "length": length})
    _run(settings_with(device=device), "index", f"Index {sae} on {corpus}", params, INDEX, as_json)


@report_user_errors
def evaluate(
    sae: Sae,
    corpus: Corpus = "wikipedia-summaries",
    tokens: Tokens = None,
    length: Length = 128,
    predictions: Annotated[
        int, typer.Option(min=1, help="Next-token predictions to measure the model's losses on, by four full passes.")
    ] = 4096,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Measure an SAE on held-out text: explained variance, L0, cross-entropy recovered and more, with 95 % intervals.

    Example: seesae evaluate smollm2-135m-l9-batchtopk-4096 --corpus wikipedia-summaries --json
    """
    from app.runs.params import EvaluateParams
    from app.runs.stages import EVALUATE

    asked = {"sae": sae, "corpus": absolute(corpus), "tokens": tokens, "length": length, "predictions": predictions}
    params = validated(EvaluateParams, asked)
    _run(settings_with(device=device), "evaluate", f"Evaluate {sae} on {corpus}", params, EVALUATE, as_json)


@report_user_errors
def compare(
    sae: Sae,
    other: Annotated[str, typer.Argument(help="Slug of another SAE of the same model.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Match the features of two SAEs of one model, by decoder direction and by activity on the same text.

    Shows on the site which features both have, which only one has, and which features of the one are split into parts
    by the other, as a wider SAE does. `seesae index` and `seesae demo` do it by themselves for SAEs that are indexed on
    the same text; where two are not, directions alone are compared. Interrupted, the same command starts anew: it takes
    seconds to minutes.

    Example: seesae compare smollm2-135m-l9-batchtopk-1024 smollm2-135m-l9-batchtopk-4096
    """
    from app.cli.run_display import result_text
    from app.runs.params import CompareParams
    from app.runs.stages import COMPARE

    params = CompareParams(a=sae, b=other)
    result = do_run(settings_with(), "compare", f"Compare {sae} with {other}", params, COMPARE)
    lines = [result_text({key: value for key, value in result.items() if key != "notes"}), *result["notes"]]
    answer(result, as_json=as_json, text="\n".join(lines))


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


def _run(
    settings: "Settings", kind: "RunKind", title: str, params: "Params", stages: "Sequence[Stage]", as_json: bool
) -> None:
    """Do a run here, with bars, and end with its result."""
    from app.cli.run_display import result_text

    result = do_run(settings, kind, title, params, stages)
    answer(result, as_json=as_json, text=result_text(result))
