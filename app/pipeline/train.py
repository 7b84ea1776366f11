"""Train SAEs on a model's activations over a corpus."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from app.paths import without_folder
from app.pipeline.params import DEMO_MODEL, CorpusName, CorpusParams, ModelName
from app.pipeline.stages import EVALUATION, PREPARATION, TRAINING
from app.runs.params import OneOrSeveral, Option, Params, Several, Slug
from app.runs.spec import Estimate, Result, RunSpec

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from app.runs.context import RunContext
    from app.runs.job_context import JobContext
    from app.settings import Settings

MOST_FEATURES = 2**31 - 1
"""Indices of features have 32 bits."""


def _options_by_name(given: Any) -> Any:
    """Take options by name, or as `NAME=VALUE`: a number, or several where there is a comma."""
    if not isinstance(given, Mapping | list | tuple):
        raise ValueError("Give the options by name.")  # noqa: TRY004 (pydantic reports only this)
    entries = given.items() if isinstance(given, Mapping) else map(_name_and_value, given)
    options = {str(name).strip().replace("-", "_"): value for name, value in entries}
    if "" in options:
        raise ValueError("An option needs a name: NAME=VALUE.")
    return options


def _name_and_value(entry: Any) -> tuple[str, float | list[float]]:
    name, _, value = str(entry).partition("=")
    try:
        numbers = [float(part) for part in value.split(",")]
    except ValueError:
        raise ValueError(f"{entry!r} is not NAME=VALUE with a number.") from None
    return name, numbers if "," in value else numbers[0]


class HookParams(Params):
    """A model, and the hook points that are read and reconstructed."""

    model: Annotated[
        str,
        Option(path=True, start=DEMO_MODEL, known="model"),
        Field(
            min_length=1, description=f"A GGUF file, a folder, a model of the hub, or {DEMO_MODEL}, which needs no hub."
        ),
    ]
    hook: Annotated[
        OneOrSeveral[Annotated[str, Field(min_length=1)]],
        Option(label="Hook point", start="resid_post.9"),
        Field(
            description="Hook point where activations are read: resid_post.9, mlp_out.3, …; several: "
            "resid_post.6,resid_post.9."
        ),
    ]
    hook_out: Annotated[
        str | None,
        Option(label="Hook point to reconstruct", rare=True),
        Field(description="Hook point to reconstruct, such as mlp_out.9 from mlp_in.9: trains a transcoder."),
    ] = None


class TrainParams(CorpusParams, HookParams):
    """An SAE for every combination of hook points, architectures, widths and k, from one pass of the model."""

    skip: Annotated[
        bool,
        Option(flags="--skip/--no-skip", label="Skip connection", rare=True),
        Field(description="Give a transcoder a skip connection."),
    ] = False
    architecture: Annotated[
        Several[str],
        Field(description="batchtopk, matryoshka, topk, jumprelu, gated or standard; several: batchtopk,topk."),
    ] = ("batchtopk",)
    width: Annotated[
        Several[Annotated[int, Field(ge=2, le=MOST_FEATURES)]],
        Field(description="Number of features; several: 4096,8192."),
    ] = (4096,)
    k: Annotated[
        Several[Annotated[int, Field(ge=1, le=MOST_FEATURES)]],
        Option(label="k"),
        Field(description="Active features per token; several: 32,64. For gated and standard, λ is set to reach it."),
    ] = (32,)
    options: Annotated[
        dict[str, float | tuple[float, ...]],
        BeforeValidator(_options_by_name),
        Option(flags="--set", metavar="NAME=VALUE", label="Options of the architecture", rare=True),
        Field(
            description="An option of the architecture, such as l1_coefficient=2 or prefixes=0.1,0.5,1; repeatable.",
        ),
    ] = Field(default_factory=dict)
    samples: Annotated[
        int | None,
        Option(default="four passes over the corpus", rare=True),
        Field(ge=1, description="Activations to train on in all."),
    ] = None
    batch_size: Annotated[int, Option(rare=True), Field(ge=1, description="Activations per step.")] = 2048
    accumulate: Annotated[
        int,
        Option(label="Parts of a batch", rare=True),
        Field(
            ge=1,
            description="Parts of a batch that are processed one after the other, to save memory. For standard, gated, "
            "and topk with --set aux_coefficient=0; the others need the whole batch.",
        ),
    ] = 1
    precision: Annotated[
        Literal["float32", "tf32", "bf16"], Option(rare=True), Field(description="Precision of matrix products.")
    ] = "float32"
    kernels: Annotated[
        Literal["torch", "triton"],
        Option(rare=True),
        Field(
            description="Kernels of the sparse parts of a step. triton needs an NVIDIA GPU; its speed is unmeasured."
        ),
    ] = "torch"
    compile: Annotated[
        bool,
        Option(flags="--compile", rare=True),
        Field(description="Compile the step of gated or standard; needs a C++ compiler."),
    ] = False
    lr: Annotated[
        float | None,
        Option(default="depends on the width", label="Learning rate", rare=True),
        Field(gt=0, description="Peak learning rate."),
    ] = None
    clip: Annotated[
        float | None,
        Option(default="depends on the number of parameters", label="Clip the gradient", rare=True),
        Field(gt=0, description="Largest norm of the gradient."),
    ] = None
    seed: Annotated[int, Option(rare=True), Field(ge=0, description="Seed of initialisation and data order.")] = 0
    stream: Annotated[
        bool,
        Option(flags="--stream/--cache", default="--cache", label="Stream activations", rare=True),
        Field(description="Compute activations as needed, or cache them on disk."),
    ] = False
    buffer_mb: Annotated[
        int,
        Option(label="Buffer, in MB", rare=True),
        Field(ge=1, description="Memory for activations that are streamed, in MB."),
    ] = 1024
    feature_shards: Annotated[
        int,
        Option(rare=True),
        Field(ge=1, description="Under torchrun, processes that share one dictionary; others share the batch."),
    ] = 1
    track: Annotated[
        Several[Literal["tensorboard", "wandb"]] | None,
        Option(label="Track with", rare=True),
        Field(description="Also send the curves to tensorboard, wandb, or both, separated by a comma."),
    ] = None
    name: Annotated[
        Slug | None, Option(default="model, layer, architecture, width, k"), Field(description="Slug of the SAE.")
    ] = None
    model_name: ModelName = None
    corpus_name: CorpusName = None

    @model_validator(mode="after")
    def _name_one_sae(self) -> "TrainParams":
        if self.name is not None and len(self.hook) * len(self.architecture) * len(self.width) * len(self.k) > 1:
            raise ValueError("A name is for one SAE; several are named by what they are. Leave the name out.")
        return self

    @model_validator(mode="after")
    def _read_several_from_a_cache(self) -> "TrainParams":
        if len(self.hook) > 1 and self.hook_out is not None:
            raise ValueError("A transcoder reads one hook point. Give one hook with hook_out, and a run for each pair.")
        if len(self.hook) > 1 and self.stream:
            raise ValueError(
                "One pass of the model for several hook points needs activations on disk. "
                "Leave stream out, or train each hook point in a run of its own."
            )
        return self


def title(params: TrainParams) -> str:
    """Return the title of a training."""
    hooks = " and ".join(params.hook) + ("" if params.hook_out is None else f" to {params.hook_out}")
    widths = " and ".join(f"{width:,}" for width in params.width)
    name = params.name or ", ".join(params.architecture)
    return f"Train {name} on {without_folder(params.model)} {hooks}, {widths} features"


async def check(session: "AsyncSession", settings: "Settings", params: TrainParams) -> Estimate:
    """Refuse a training that cannot be done, before it starts."""
    from app.pipeline.checks import check_training

    return await check_training(session, settings, params)


async def run_train(run: "RunContext", ctx: "JobContext", params: TrainParams) -> Result:
    """Prepare the activations, train, evaluate."""
    from app.pipeline import distributed, steps
    from app.pipeline.forecast import Work
    from app.pipeline.prepared_inputs import HookPair, run_model, tokenise
    from app.pipeline.training_plans import training_configs, training_plans

    training_configs(params, tokens=1)  # refuses what cannot be trained before the model runs
    hooks = HookPair.parse_all(params.hook, params.hook_out)
    distributed.require_one_hook(len(hooks))
    distributed.require_common_files(ctx.artifacts.store)
    tokenised = await tokenise(
        run, ctx, params.model, hooks, params, model_name=params.model_name, corpus_name=params.corpus_name
    )
    plans = [training_plans(params, own) for own in tokenised]
    for own, planned in zip(tokenised, plans, strict=True):
        await steps.claim_names(run, ctx, planned, own)
    configs = [plan.config for plan in plans[0]]
    work = Work(trained=configs, predictions=steps.PREDICTIONS * len(configs))
    inputs = await run_model(run, ctx, tokenised, stream_mb=params.buffer_mb if params.stream else None, work=work)
    trained = [
        await steps.train_saes(
            run,
            ctx,
            planned,
            own,
            track=params.track or (),
            feature_shards=params.feature_shards,
            named=len(hooks) > 1,
        )
        for own, planned in zip(inputs, plans, strict=True)
    ]
    results = [
        {
            "sae": detail.slug,
            "features": sae.d_sae,
            "tokens": own.sequences.n_counted,
            "explained_variance": evaluation.explained_variance,
            "l0": evaluation.l0,
        }
        for own, saes in zip(inputs, trained, strict=True)
        for (sae, detail), evaluation in zip(saes, await steps.evaluate_saes(run, ctx, saes, own), strict=True)
    ]
    return results[0] if len(results) == 1 else {"saes": results}


def assist_training(params: TrainParams) -> None:
    """Take part in the training of the process that does the run."""
    from app.pipeline.distributed import run_worker_rank

    run_worker_rank(params.feature_shards)


TRAIN = RunSpec(
    kind="train",
    help="""Train SAEs on a model's activations over a corpus.

    Several hook points, architectures, widths or k give an SAE for each combination; the model runs once for all.
    Interrupted, the same command continues from its last checkpoint. The run shows on the site too. train.json is
    saved beside the weights; --config takes it to train the same SAE again.

    Examples:
      seesae train --model smollm2-135m --hook resid_post.9 --corpus wikipedia-summaries --width 8192
      seesae train --config sweep.toml --width 4096,8192 --k 32,64
      seesae train --config sweep.toml --hook resid_post.6,resid_post.9,resid_post.12
      seesae train --config mlp.toml --hook mlp_in.9 --hook-out mlp_out.9 --skip --architecture topk
      torchrun --nproc-per-node 4 -m app.cli train --config big.toml --feature-shards 2
    """,
    params=TrainParams,
    stages=lambda _params: (*PREPARATION, *TRAINING, *EVALUATION),
    title=title,
    check=check,
    work=run_train,
    result_order=("sae", "features", "tokens", "explained_variance", "l0"),
    assist=assist_training,
    takes_config=True,
)
