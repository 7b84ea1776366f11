"""The demo: from nothing to the features of a small model, on any machine.

Layer 9 of SmolLM2-135M's 30 is read: far enough in that the residual stream holds what words mean in their context,
early enough that the forward pass, which stops there, costs a third of the whole.
"""

from typing import Any

from app.pipeline.compare import compare_with_others
from app.pipeline.index import dead_fraction
from app.pipeline.naming import DEMO_CORPUS, DEMO_MODEL, demo_slug
from app.pipeline.prepared_inputs import HookPair
from app.pipeline.steps import evaluate_saes, index_sae, prepare, train_saes
from app.pipeline.train import plans, training_configs
from app.runs.context import RunContext
from app.runs.job_context import JobContext
from app.runs.params import DemoParams, TrainParams

_PREDICTIONS = 2048
"""Scored for the cross-entropy metrics; enough for two digits, in a quarter of a minute."""


def training_of(params: DemoParams) -> TrainParams:
    """The training that the demo does."""
    return TrainParams(
        model=DEMO_MODEL,
        hook=f"resid_post.{params.layer}",
        corpus=DEMO_CORPUS,
        tokens=params.tokens,
        width=(params.width,),
        k=(params.k,),
        name=demo_slug(params),
    )


async def run_demo(run: RunContext, ctx: JobContext) -> dict[str, Any]:
    """Do a run of kind "demo": all that train, index and evaluate do, on one pass of the model over the corpus."""
    params = DemoParams.model_validate(run.params)
    training = training_of(params)
    training_configs(training, params.tokens)  # refuses what cannot be trained, before the model runs for long
    inputs = await prepare(run, ctx, training.model, HookPair.parse(training.hook, None), training)
    ((sae, detail),) = await train_saes(run, ctx, plans(training, inputs), inputs)
    statistics = await index_sae(run, ctx, sae, detail, inputs)
    (evaluation,) = await evaluate_saes(run, ctx, [(sae, detail)], inputs, predictions=_PREDICTIONS)
    await compare_with_others(run, ctx, detail)
    return {
        "sae": detail.slug,
        "features": sae.d_sae,
        "tokens": statistics.tokens,
        "explained_variance": evaluation.explained_variance,
        "l0": evaluation.l0,
        "dead_fraction": dead_fraction(statistics),
    }
