"""Export an SAE: its weights in a public format, the statistics of its features, or its labels."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from app.errors import NoWeights, Unprocessable
from app.exchange.selection import Selection
from app.pipeline.params import SaeParams
from app.runs.params import Option
from app.runs.spec import Estimate, Result, RunSpec, StageSpec

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from app.runs.context import RunContext, StageProgress
    from app.runs.job_context import JobContext
    from app.settings import Settings

Format = Literal["saelens", "dictionary_learning", "sparsify", "neuronpedia", "jsonl", "site", "labels"]
"""Formats by name. They stand here too, apart from the code that writes them, so that --help need not load torch."""
OF_FEATURES = ("neuronpedia", "jsonl", "site")
"""Formats that hold what is known of the features, and not the weights."""
LABELS = "labels"


def _selection(text: str | None) -> str | None:
    try:
        if text is not None:
            Selection.parse(text)
    except Unprocessable as error:
        raise ValueError(str(error)) from None
    return text


def _whole_path(path: str) -> str:
    if not Path(path).is_absolute():
        raise ValueError("Give the whole path of the folder, from / on: a worker writes it, on its own machine.")
    return path


class ExportParams(SaeParams):
    """An SAE, what is written of it, and where."""

    destination: Annotated[
        str,
        AfterValidator(_whole_path),
        Option(argument=True, metavar="DEST", path=True, new=True, label="Folder"),
        Field(description="Folder to write, new or empty, on the machine that does the run."),
    ]
    format: Annotated[
        Format,
        Field(description="Format: a package's for the weights; neuronpedia, jsonl or site for the features; labels."),
    ]
    features: Annotated[
        str | None,
        AfterValidator(_selection),
        Option(default="all of the index"),
        Field(description="Features to write, such as 0-99,250."),
    ] = None

    @model_validator(mode="after")
    def _weights_are_whole(self) -> "ExportParams":
        if self.features is not None and self.is_weights:
            raise ValueError(f"{self.format} holds the weights of all features. Leave the features out.")
        return self

    @property
    def is_weights(self) -> bool:
        """True for the format of a package that trains SAEs."""
        return self.format not in (*OF_FEATURES, LABELS)


async def check_export(session: "AsyncSession", _settings: "Settings", params: ExportParams) -> Estimate:
    """Refuse an SAE that has not what is to be written, and a folder that holds something.

    Weights may be written twice to one folder: the second time changes nothing.
    """
    from app.exchange.features import check_new, find_indexed
    from app.services.saes import find_sae

    sae = await (find_indexed if params.format in OF_FEATURES else find_sae)(session, params.sae)
    if params.is_weights:
        if not sae.has_weights:
            raise NoWeights(sae.slug)
        return Estimate(disk_bytes=2 * 4 * sae.d_in * sae.d_sae)  # encoder and decoder, in float32
    check_new(Path(params.destination))
    return Estimate()


async def run_export(run: "RunContext", ctx: "JobContext", params: ExportParams) -> Result:
    """Write the folder, and say what it holds."""
    from app.queries import runs
    from app.services.saes import find_sae

    async with ctx.sessions.begin() as session:
        detail = await find_sae(session, params.sae)
        await runs.set_sae(session, run.run_id, detail.id)
    async with run.stage("write") as progress:
        if params.is_weights:
            written = await _write_weights(run, ctx, params)
        else:
            written = await _write_rows(ctx, params, progress)
    return {**written, "format": params.format, "notes": [_summary(params, written)]}


async def _write_weights(run: "RunContext", ctx: "JobContext", params: ExportParams) -> Result:
    from app.exchange.weights import export_sae
    from app.pipeline.registered import open_sae

    sae, detail = await open_sae(ctx, params.sae)
    files = await run.in_thread(export_sae, sae, params.format, Path(params.destination))
    return {"sae": detail.slug, "features": detail.d_sae, "folder": params.destination, "files": files}


async def _write_rows(ctx: "JobContext", params: ExportParams, progress: "StageProgress") -> Result:
    from app.exchange.features import export_features
    from app.exchange.jsonl import write_jsonl
    from app.exchange.labels import export_labels
    from app.exchange.neuronpedia.release import write_neuronpedia
    from app.exchange.static_site import write_site

    folder = Path(params.destination)
    selection = None if params.features is None else Selection.parse(params.features)
    if params.format == LABELS:
        return await export_labels(ctx.sessions, params.sae, folder, selection=selection)
    write = {"neuronpedia": write_neuronpedia, "jsonl": write_jsonl, "site": write_site}[params.format]
    return await export_features(ctx.sessions, params.sae, write, folder, selection=selection, progress=progress)


def _summary(params: ExportParams, written: Result) -> str:
    """Return what the folder holds, in one sentence."""
    folder, sae = written["folder"], written["sae"]
    if params.is_weights:
        return f"{folder} holds {sae} as {params.format}: {', '.join(written['files'])}."
    if params.format == LABELS:
        return f"{folder} holds {written['labels']:,} labels of {sae}, one per row."
    size = f"{written['files']:,} files, {written['bytes'] / 1e6:,.1f} MB"
    open_it = " Open index.html." if params.format == "site" else ""
    return f"{folder} holds {written['features']:,} features of {sae} as {params.format}: {size}.{open_it}"


EXPORT = RunSpec(
    kind="export",
    help="""Export an SAE's weights, the statistics of its features, or its labels.

    A BatchTopK or gated SAE is written in its inference form, a JumpReLU. An export that would not compute the same
    activations is refused, with the reason.

    For features, `neuronpedia` writes a release, which seesae import reads too; `jsonl` one feature per line, as the
    API returns it; `site` a folder of HTML that opens without a server; `labels` one submitted label per row, with
    author, categories and ratings, as labels.csv and labels.jsonl, and history.jsonl with all versions, votes,
    decisions and comments, which seesae import-labels reads. Drafts stay here.

    Examples:
      seesae export smollm2-135m-l9-batchtopk-4096 --format saelens shared/layer_9
      seesae export smollm2-135m-l9-topk-4096 --format sparsify shared/layers.9
      seesae export smollm2-135m-l9-batchtopk-4096 --format site shared/site --features 0-999
    """,
    params=ExportParams,
    stages=lambda _params: (StageSpec("write", "Write the files", unit="features"),),
    check=check_export,
    title=lambda params: f"Export {params.sae} as {params.format}",
    work=run_export,
    result_order=("sae", "features", "labels", "format", "folder", "files", "bytes"),
    panel="Exchange",
    takes_device=False,
)
