"""The demo: from nothing to the features of a small model, on any machine.

Layer 9 of SmolLM2-135M's 30 is read: far enough in that the residual stream holds what words mean in their context,
early enough that the forward pass, which stops there, costs a third of the whole.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from app.pipeline.effects import EffectsParams
from app.pipeline.naming import sae_slug
from app.pipeline.params import DEMO_CORPUS, DEMO_MODEL
from app.pipeline.stages import COMPARISON, EFFECTS, EVALUATION, INDEXING, PREPARATION, TRAINING
from app.pipeline.train import MOST_FEATURES, TrainParams
from app.runs.params import OneOrSeveral, Params
from app.runs.spec import Estimate, Result, RunSpec

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from app.pipeline.prepared_inputs import PreparedInputs
    from app.queries.saes import SaeDetail
    from app.runs.context import RunContext
    from app.runs.job_context import JobContext
    from app.settings import Settings
    from sae_core.saes import SAE

_PREDICTIONS = 2048
"""Scored for the cross-entropy metrics; enough for two digits, in a quarter of a minute."""
MOST_EFFECTS = 32
"""Features, the most frequent, whose effects the demo measures: about 90 CPU-seconds. Fewer with less text."""


class DemoParams(Params):
    """The size of the demo: a small model, Wikipedia summaries, one SAE."""

    tokens: Annotated[int, Field(ge=4096, description="Tokens of Wikipedia summaries to learn from.")] = 105_000
    width: Annotated[int, Field(ge=64, le=MOST_FEATURES, description="Number of features.")] = 4096
    k: Annotated[int, Field(ge=1, le=MOST_FEATURES, description="Active features per token, on average.")] = 32
    layer: Annotated[
        OneOrSeveral[Annotated[int, Field(ge=0, le=29)]],
        Field(description="Layer of SmolLM2-135M to train on; several: 6,9,12."),
    ] = (9,)


_DEFAULT = DemoParams()
_EARLIER_TOKENS = 200_000
"""An earlier default; the SAEs of both have the same names."""
_BATCH = 1024
"""Activations per step: with so few samples, twice the steps explain more (docs/demo.md)."""


def demo_slugs(params: DemoParams) -> list[str]:
    """Name the demo's SAEs. What is not the default is in the name, so that demos of other settings live beside it."""
    k = params.k if params.k != _DEFAULT.k else None
    tokens = "" if params.tokens == _DEFAULT.tokens else f"-t{params.tokens}"
    hooks = [f"resid_post.{layer}" for layer in params.layer]
    return [sae_slug(DEMO_MODEL, hook, "batchtopk", params.width, k) + tokens for hook in hooks]


def as_asked_earlier(params: DemoParams) -> DemoParams:
    """Return what the same command asked for under the earlier default, which made SAEs of the same names."""
    return params.model_copy(update={"tokens": _EARLIER_TOKENS}) if params.tokens == _DEFAULT.tokens else params


def title(params: DemoParams) -> str:
    """Return the title of a demo."""
    layers = ("layer " if len(params.layer) == 1 else "layers ") + ", ".join(map(str, params.layer))
    return f"Demo: {params.width:,} features of SmolLM2-135M, {layers}, on {params.tokens:,} tokens"


def trainings_of(params: DemoParams) -> list[TrainParams]:
    """Return the trainings that the demo does, one per layer."""
    return [
        TrainParams(
            model=DEMO_MODEL,
            hook=(f"resid_post.{layer}",),
            corpus=DEMO_CORPUS,
            tokens=params.tokens,
            batch_size=_BATCH,
            width=(params.width,),
            k=(params.k,),
            name=slug,
        )
        for layer, slug in zip(params.layer, demo_slugs(params), strict=True)
    ]


async def check(session: "AsyncSession", settings: "Settings", params: DemoParams) -> Estimate:
    """Refuse a demo for which there is no room, before the work."""
    from app.pipeline.checks import check_training

    first = trainings_of(params)[0]
    hooks = tuple(f"resid_post.{layer}" for layer in params.layer)
    return await check_training(session, settings, first.model_copy(update={"hook": hooks, "name": None}))


async def run_demo(run: "RunContext", ctx: "JobContext", params: DemoParams) -> Result:
    """Do all that train, index, evaluate and effects do, on one pass of the model over the corpus."""
    from app.pipeline import steps
    from app.pipeline.comparison import compare_with_others
    from app.pipeline.forecast import Work
    from app.pipeline.prepared_inputs import HookPair, run_model, tokenise
    from app.pipeline.training_plans import training_configs, training_plans

    trainings = trainings_of(params)
    training_configs(trainings[0], params.tokens)  # refuses what cannot be trained, before the model runs for long
    hooks = [HookPair.parse(training.hook[0], None) for training in trainings]
    tokenised = await tokenise(run, ctx, DEMO_MODEL, hooks, trainings[0])
    plans = [training_plans(training, own) for training, own in zip(trainings, tokenised, strict=True)]
    for planned, own in zip(plans, tokenised, strict=True):
        await steps.claim_names(run, ctx, planned, own)
    work = Work(
        trained=[plans[0][0].config],
        indexed=(params.width, params.k),
        predictions=_PREDICTIONS,
        effects=_effects(tokenised[0].sequences.n_counted),
    )
    inputs = await run_model(run, ctx, tokenised, work=work)
    trained = [
        await steps.train_saes(run, ctx, planned, own, named=len(hooks) > 1)
        for own, planned in zip(inputs, plans, strict=True)
    ]
    results: list[dict[str, Any]] = []
    for own, ((sae, detail),) in zip(inputs, trained, strict=True):
        with run.about(detail.slug if len(hooks) > 1 else "", (*INDEXING, *EVALUATION, *COMPARISON)):
            statistics = await steps.index_sae(run, ctx, sae, detail, own)
            (evaluation,) = await steps.evaluate_saes(run, ctx, [(sae, detail)], own, predictions=_PREDICTIONS)
            await compare_with_others(run, ctx, detail)
        results.append(
            {
                "sae": detail.slug,
                "features": sae.d_sae,
                "tokens": statistics.tokens,
                "explained_variance": evaluation.explained_variance,
                "l0": evaluation.l0,
                "dead_fraction": steps.dead_fraction(statistics),
                **steps.index_notes(statistics),
            }
        )
    for own, ((sae, detail),), result in zip(inputs, trained, results, strict=True):
        with run.about(detail.slug if len(hooks) > 1 else "", EFFECTS):
            result |= await sample_effects(run, ctx, sae, detail, own, notes=result.get("notes", ()))
    return results[0] if len(results) == 1 else {"saes": results}


async def sample_effects(
    run: "RunContext",
    ctx: "JobContext",
    sae: "SAE",
    detail: "SaeDetail",
    inputs: "PreparedInputs",
    *,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Measure some effects. The site shows the SAE by now: a failure joins the `notes`, and the demo is done."""
    from app.pipeline.measured_effects import measure
    from app.runs.context import RunInterrupted
    from app.runs.failures import explain, is_infrastructure

    if not run.has_stage(EFFECTS[0].name):
        return {}
    params = EffectsParams(sae=detail.slug, corpus=DEMO_CORPUS, sample=_effects(inputs.sequences.n_counted))
    try:
        return {"effects": (await measure(run, ctx, sae, detail, inputs, params))["features"]}
    except Exception as error:
        if isinstance(error, RunInterrupted) or is_infrastructure(error):
            raise
        note = f"Effects of features were not measured. {explain(error)} To try again: seesae effects {detail.slug}."
        return {"notes": [*notes, note]}


def _effects(tokens: int) -> int:
    """Return how many features' effects are measured: fewer on less text."""
    return max(1, min(MOST_EFFECTS, tokens // 6250))


DEMO = RunSpec(
    kind="demo",
    help="""Learn the features of a small language model on this machine, and browse them.

    Fetches SmolLM2-135M and Wikipedia summaries (98 MB, once), trains a sparse autoencoder, indexes its features,
    measures the effects of some and serves the site, which shows the work as it goes. Takes some minutes. Started
    again, it continues from where it was and repeats no finished stage.

    Examples:
      seesae demo
      seesae demo --tokens 500000 --width 8192
      seesae demo --layer 6,9,12
      seesae demo --no-serve --json
    """,
    params=DemoParams,
    stages=lambda _params: (*PREPARATION, *TRAINING, *INDEXING, *EVALUATION, *COMPARISON, *EFFECTS),
    title=title,
    check=check,
    work=run_demo,
    result_order=("sae", "features", "tokens", "explained_variance", "l0", "dead_fraction", "effects"),
    panel="",  # its command serves the site too
)
