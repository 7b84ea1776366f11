"""seesae export: SAEs and features for other packages."""

import asyncio
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.options import Json
from app.cli.outcome import answer, report_user_errors
from app.cli.processes import settings_with

if TYPE_CHECKING:
    from app.exchange.features import Selection
    from app.settings import Settings

Sae = Annotated[
    str, typer.Argument(help="Slug of the SAE, such as smollm2-135m-l9-batchtopk-4096.", show_default=False)
]


class Writable(StrEnum):
    """Formats that `seesae export` writes. Their names stand here too, so that --help need not load torch."""

    SAELENS = "saelens"
    DICTIONARY_LEARNING = "dictionary_learning"
    SPARSIFY = "sparsify"
    NEURONPEDIA = "neuronpedia"
    JSONL = "jsonl"
    SITE = "site"
    LABELS = "labels"


OF_FEATURES = (Writable.NEURONPEDIA, Writable.JSONL, Writable.SITE, Writable.LABELS)
"""Formats that hold what is known of the features, and not the weights."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="Exchange")(export)


@report_user_errors
def export(
    sae: Sae,
    destination: Annotated[
        Path, typer.Argument(metavar="DEST", help="Folder to write, new or empty.", show_default=False)
    ],
    format: Annotated[
        Writable,
        typer.Option(
            help="Format to write: a package's for the weights; neuronpedia, jsonl or site for the features; labels.",
            show_default=False,
        ),
    ],
    features: Annotated[
        str | None, typer.Option(help="Features to write, such as 0-99,250.", show_default="all of the index")
    ] = None,
    as_json: Json = False,
) -> None:
    """Export an SAE's weights, or the statistics of its features.

    A BatchTopK or gated SAE is written in its inference form, a JumpReLU. An export that would not compute the same
    activations is refused, with the reason.

    For features, `neuronpedia` writes a release, which seesae import reads too; `jsonl` one feature per line, as the
    API returns it; `site` a folder of HTML that opens without a server; `labels` one submitted label per row, with
    author, categories and ratings, as labels.csv and labels.jsonl. Drafts stay here.

    Examples:
      seesae export smollm2-135m-l9-batchtopk-4096 --format saelens shared/layer_9
      seesae export smollm2-135m-l9-topk-4096 --format sparsify shared/layers.9
      seesae export smollm2-135m-l9-batchtopk-4096 --format site shared/site --features 0-999
    """
    try:
        folder = destination.expanduser().resolve()
    except RuntimeError:
        raise typer.BadParameter(f"{destination}: there is no user of that name.", param_hint="DEST") from None
    if format is Writable.LABELS:
        result = _export_labels(sae, folder, _selection(features))
        answer(result, as_json=as_json, text=f"{folder} holds {result['labels']:,} labels of {sae}, one per row.")
        return
    if format in OF_FEATURES:
        result = _export_features(sae, format, folder, features)
        text = (
            f"{folder} holds {result['features']:,} features of {sae} as {format}: {result['files']:,} files, "
            f"{result['bytes'] / 1e6:,.1f} MB." + (" Open index.html." if format is Writable.SITE else "")
        )
        answer(result, as_json=as_json, text=text)
        return
    if features is not None:
        raise typer.BadParameter(f"{format} holds the weights of all features.", param_hint="--features")
    result = asyncio.run(_export(settings_with(), sae, format, folder))
    answer(result, as_json=as_json, text=f"{result['folder']} holds {sae} as {format}: {', '.join(result['files'])}.")


async def _export(settings: "Settings", sae: str, format: str, folder: Path) -> dict[str, Any]:
    from app.cli.local_runs import local_job_context
    from app.exchange.weights import export_sae
    from app.pipeline.registered import open_sae

    async with local_job_context(settings) as ctx:
        opened, detail = await open_sae(ctx, sae)
    files = export_sae(opened, format, folder)
    return {"sae": detail.slug, "features": detail.d_sae, "format": format, "folder": str(folder), "files": files}


def _selection(features: str | None) -> "Selection | None":
    from app.errors import Unprocessable
    from app.exchange.features import Selection

    try:
        return None if features is None else Selection.parse(features)
    except Unprocessable as error:
        raise typer.BadParameter(str(error), param_hint="--features") from None


def _export_labels(sae: str, folder: Path, selection: "Selection | None") -> dict[str, Any]:
    from app.cli.local_runs import local_job_context
    from app.exchange.labels import export_labels

    async def export() -> dict[str, Any]:
        async with local_job_context(settings_with()) as ctx:
            return await export_labels(ctx.sessions, sae, folder, selection=selection)

    return asyncio.run(export())


def _export_features(sae: str, format: Writable, folder: Path, features: str | None) -> dict[str, Any]:
    from app.cli.local_runs import local_job_context
    from app.cli.run_display import StageDisplay, stderr_console
    from app.exchange.features import export_features
    from app.exchange.jsonl import write_jsonl
    from app.exchange.neuronpedia.release import write_neuronpedia
    from app.exchange.static_site import write_site
    from app.queries.runs import Stage, StageState

    write = {Writable.NEURONPEDIA: write_neuronpedia, Writable.JSONL: write_jsonl, Writable.SITE: write_site}[format]
    selection = _selection(features)
    started = time.monotonic()
    with StageDisplay(stderr_console()) as display:

        def progress(done: int, total: int) -> None:
            state: StageState = "done" if done == total else "running"
            seconds = time.monotonic() - started
            display.show((Stage("write", "Write features", state, done, total, "features", seconds),))

        async def export() -> dict[str, Any]:
            async with local_job_context(settings_with()) as ctx:
                return await export_features(ctx.sessions, sae, write, folder, selection=selection, progress=progress)

        return asyncio.run(export())
