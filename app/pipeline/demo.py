"""The demo: from nothing to the features of a small model, on any machine.

Layer 9 of SmolLM2-135M's 30 is read: far enough in that the residual stream holds what words mean in their context,
early enough that the forward pass, which stops there, costs a third of the whole.
"""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from app.pipeline.naming import sae_slug
from app.pipeline.params import DEMO_CORPUS, DEMO_MODEL
from app.pipeline.stages import COMPARISON, EVALUATION, INDEXING, PREPARATION, TRAINING
from app.pipeline.train import TrainParams
from app.runs.params import Params
from app.runs.spec import Estimate, Result, RunSpec

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from app.runs.context import RunContext
    from app.runs.job_context import JobContext
    from app.settings import Settings

_PREDICTIONS = 2048
"""Scored for the cross-entropy metrics; enough for two digits, in a quarter of a minute."""


class DemoParams(Params):
    """The size of the demo: a small model, Wikipedia summaries, one SAE."""

    tokens: Annotated[int, Field(ge=4096, description="Tokens of Wikipedia summaries to learn from.")] = 200_000
    width: Annotated[int, Field(ge=64, description="Number of features.")] = 4096
    k: Annotated[int, Field(ge=1, description="Active features per token, on average.")] = 32
    layer: Annotated[int, Field(ge=0, le=29, description="Layer of SmolLM2-135M to train on.")] = 9


_DEFAULT = DemoParams()


def demo_slug(params: DemoParams) -> str:
    """Name the demo's SAE. What is not the default is in the name, so that demos of other settings live beside it."""
    k = params.k if params.k != _DEFAULT.k else None
    slug = sae_slug(DEMO_MODEL, f"resid_post.{params.layer}", "batchtopk", params.width, k)
    return slug if params.tokens == _DEFAULT.tokens else f"{slug}-t{params.tokens}"


def title(params: DemoParams) -> str:
    """Return the title of a demo."""
    return f"Demo: {params.width:,} features of SmolLM2-135M, layer {params.layer}, on {params.tokens:,} tokens"


def training_of(params: DemoParams) -> TrainParams:
    """Return the training that the demo does."""
    return TrainParams(
        model=DEMO_MODEL,
        hook=f"resid_post.{params.layer}",
        corpus=DEMO_CORPUS,
        tokens=params.tokens,
        width=(params.width,),
        k=(params.k,),
        name=demo_slug(params),
    )


async def check(session: "AsyncSession", settings: "Settings", params: DemoParams) -> Estimate:
    """Refuse a demo for which there is no room, before the work."""
    from app.pipeline.checks import check_training

    return await check_training(session, settings, training_of(params))


async def run_demo(run: "RunContext", ctx: "JobContext", params: DemoParams) -> Result:
    """Do all that train, index and evaluate do, on one pass of the model over the corpus."""
    from app.pipeline import steps
    from app.pipeline.comparison import compare_with_others
    from app.pipeline.prepared_inputs import HookPair, run_model, tokenise
    from app.pipeline.training_plans import training_configs, training_plans

    training = training_of(params)
    training_configs(training, params.tokens)  # refuses what cannot be trained, before the model runs for long
    tokenised = await tokenise(run, ctx, training.model, HookPair.parse(training.hook, None), training)
    plans = training_plans(training, tokenised)
    await steps.claim_names(run, ctx, plans, tokenised)
    inputs = await run_model(run, ctx, tokenised)
    ((sae, detail),) = await steps.train_saes(run, ctx, plans, inputs)
    statistics = await steps.index_sae(run, ctx, sae, detail, inputs)
    (evaluation,) = await steps.evaluate_saes(run, ctx, [(sae, detail)], inputs, predictions=_PREDICTIONS)
    await compare_with_others(run, ctx, detail)
    return {
        "sae": detail.slug,
        "features": sae.d_sae,
        "tokens": statistics.tokens,
        "explained_variance": evaluation.explained_variance,
        "l0": evaluation.l0,
        "dead_fraction": steps.dead_fraction(statistics),
        **steps.index_notes(statistics),
    }


DEMO = RunSpec(
    kind="demo",
    help="""Learn the features of a small language model on this machine, and browse them.

    Fetches SmolLM2-135M and Wikipedia summaries (98 MB, once), trains a sparse autoencoder, indexes its features and
    serves the site, which shows the work as it goes. Takes some minutes. Started again, it continues from where it was
    and repeats no finished stage.

    Examples:
      seesae demo
      seesae demo --tokens 500000 --width 8192
      seesae demo --no-serve --json
    """,
    params=DemoParams,
    stages=lambda _params: (*PREPARATION, *TRAINING, *INDEXING, *EVALUATION, *COMPARISON),
    title=title,
    check=check,
    work=run_demo,
    result_order=("sae", "features", "tokens", "explained_variance", "l0", "dead_fraction"),
    panel="",  # its command serves the site too
)
