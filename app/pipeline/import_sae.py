"""Import an SAE: in any public format with its weights, or as the statistics that another package exported."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from app.exchange.neuronpedia.files import FORMAT as STATISTICS
from app.exchange.neuronpedia.files import is_export
from app.paths import without_folder
from app.pipeline.params import DEMO_MODEL, ModelName
from app.runs.params import Option, Params, Slug
from app.runs.spec import Estimate, Result, RunSpec, StageSpec

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from app.runs.context import RunContext
    from app.runs.job_context import JobContext
    from app.settings import Settings

Format = Literal[
    "saelens",
    "dictionary_learning",
    "sparsify",
    "gemma_scope",
    "gemma_scope_2",
    "llama_scope",
    "openai",
    "neuronpedia",
]
"""Formats by name. They stand here too, apart from the code that reads them, so that --help need not load torch."""

WEIGHTS_STAGES = (
    StageSpec("read", "Read and convert the SAE"),
    StageSpec("fetch", "Fetch its model", unit="bytes"),
    StageSpec("load", "Load its model"),
    StageSpec("register", "Register the SAE"),
)
STATISTICS_STAGES = (
    StageSpec("read", "Read the export", unit="bytes"),
    StageSpec("register", "Register the SAE and the texts"),
    StageSpec("publish", "Publish the index", unit="features"),
)


class ImportParams(Params):
    """The place of the SAE, and what its files do not say."""

    source: Annotated[
        str,
        Option(argument=True, path=True, partly=True),
        Field(
            min_length=1,
            description="A folder or file, or hf:org/repo/folder@revision of the Hugging Face hub; or an export of "
            "SAEDashboard or Neuronpedia.",
        ),
    ]
    format: Annotated[
        Format | None,
        Option(default="detected", rare=True),
        Field(description="The package that wrote it."),
    ] = None
    model: Annotated[
        str | None,
        Option(path=True, default="from the checkpoint", known="model"),
        Field(description=f"The model it was trained on: a GGUF file, a folder, a model of the hub, or {DEMO_MODEL}."),
    ] = None
    hook: Annotated[
        str | None,
        Option(default="from the checkpoint", label="Hook point"),
        Field(description="Hook point that it reads: resid_post.9, or TransformerLens' blocks.9.hook_resid_post."),
    ] = None
    hook_out: Annotated[
        str | None,
        Option(default="from the checkpoint", label="Hook point to reconstruct", rare=True),
        Field(description="Hook point that a transcoder reconstructs: mlp_out.9, …"),
    ] = None
    activation_scale: Annotated[
        float | None,
        Option(default="from the checkpoint", rare=True),
        Field(
            gt=0,
            description="What activations were multiplied by in training, for an SAE of SAELens that says there was "
            "such a scale and not which.",
        ),
    ] = None
    name: Annotated[
        Slug | None, Option(default="model, layer, architecture, width, k"), Field(description="Slug of the SAE.")
    ] = None
    model_name: ModelName = None

    @model_validator(mode="before")
    @classmethod
    def _recognise_exports(cls, given: object) -> object:
        """Fill in the format of an export of statistics, on which the run's stages depend."""
        if isinstance(given, dict) and given.get("format") is None and is_export(str(given.get("source"))):
            return {**given, "format": STATISTICS}
        return given

    @model_validator(mode="after")
    def _scale_weights_only(self) -> "ImportParams":
        if self.is_statistics and self.activation_scale is not None:
            raise ValueError("An export of statistics has no weights to scale. Leave `activation_scale` out.")
        return self

    @property
    def is_statistics(self) -> bool:
        """True for an export of statistics, without weights."""
        return self.format == STATISTICS


def title(params: ImportParams) -> str:
    """Return the title of an import."""
    return f"Import {without_folder(params.source)}" + (f" as {params.name}" if params.name else "")


def next_step(result: Result) -> str:
    """Return the command that makes its features browsable."""
    if result["format"] == STATISTICS:
        return "Its features can be browsed now: seesae serve"
    return f"Count its features on a corpus next: seesae index {result['sae']} --corpus CORPUS"


async def check(session: "AsyncSession", settings: "Settings", params: ImportParams) -> Estimate:
    """Refuse an import of what is not there, before the work."""
    from app.pipeline.checks import check_import

    return await check_import(session, settings, params)


async def run_import(run: "RunContext", ctx: "JobContext", params: ImportParams) -> Result:
    """Import weights or statistics."""
    if params.is_statistics:
        from app.pipeline.import_statistics import import_statistics

        return await import_statistics(run, ctx, params)
    from app.pipeline.import_weights import import_weights

    return await import_weights(run, ctx, params)


IMPORT = RunSpec(
    kind="import",
    help="""Import an SAE that was trained elsewhere, to index, browse and probe it like one of your own.

    The format is detected, the SAE is converted, and its shapes, values and input width are checked. The
    result says what was done with norms, scales and thresholds. Importing the same again changes nothing.

    An export of SAEDashboard (batch-0.json, …) or Neuronpedia (features/batch-0.jsonl.gz, …) has statistics and no
    weights: it can be browsed and labelled at once, and not probed; its pages say what it lacks.

    Examples:
      seesae import downloads/my-sae
      seesae import hf:google/gemma-scope-2b-pt-res/layer_12/width_16k/average_l0_82
      seesae import downloads/other --model EleutherAI/pythia-70m --hook resid_post.3 --name mine
      seesae import downloads/gpt2-small/9-res-jb
    """,
    params=ImportParams,
    stages=lambda params: STATISTICS_STAGES if params.is_statistics else WEIGHTS_STAGES,
    title=title,
    check=check,
    work=run_import,
    result_order=("sae", "features", "tokens"),
    next_step=next_step,
    panel="Exchange",
)
