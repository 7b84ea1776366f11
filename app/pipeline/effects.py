"""Measure what features do to the model's predictions."""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from app.pipeline.params import IndexedCorpusParams, SaeParams
from app.pipeline.stages import EFFECTS, PREPARATION
from app.runs.params import Option, Several
from app.runs.spec import Estimate, Result, RunSpec

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from app.runs.context import RunContext
    from app.runs.job_context import JobContext
    from app.settings import Settings


class EffectsParams(IndexedCorpusParams, SaeParams):
    """Features, and how much is measured for each."""

    sample: Annotated[
        int, Field(ge=1, description="Features to measure, the most frequent first; all where there are fewer.")
    ] = 256
    features: Annotated[
        Several[Annotated[int, Field(ge=0)]] | None,
        Option(default="the most frequent"),
        Field(description="Numbers of the features to measure instead, such as 3,14,15."),
    ] = None
    contexts: Annotated[
        int, Option(rare=True), Field(ge=2, le=1000, description="Places in which each feature is ablated.")
    ] = 24
    held_out: Annotated[
        int, Option(rare=True), Field(ge=128, le=1_000_000, description="Held-out tokens to find those places in.")
    ] = 32768
    seed: Annotated[
        int, Option(rare=True), Field(ge=0, description="Of the places, the controls and the intervals.")
    ] = 0


async def check(session: "AsyncSession", settings: "Settings", params: EffectsParams) -> Estimate:
    """Refuse a measurement that cannot be made, and say how long it will take."""
    from app.pipeline.checks import check_effects

    return await check_effects(session, settings, params)


async def run_effects(run: "RunContext", ctx: "JobContext", params: EffectsParams) -> Result:
    """Prepare the activations, measure shard by shard, and publish all effects at once."""
    from app.pipeline.measured_effects import measure
    from app.pipeline.prepared_inputs import prepare_registered
    from app.pipeline.registered import open_sae_of_run

    sae, detail = await open_sae_of_run(run, ctx, params.sae)
    (inputs,) = await prepare_registered(run, ctx, [(sae, detail)], params)
    return await measure(run, ctx, sae, detail, inputs, params)


EFFECTS_RUN = RunSpec(
    kind="effects",
    help="""Measure what features do: ablate each where it is active, against random features of equal mass.

    The most frequent features come first. A run that was stopped continues from where it was.

    Examples:
      seesae effects smollm2-135m-l9-batchtopk-4096
      seesae effects smollm2-135m-l9-batchtopk-4096 --features 3,14,15
      seesae effects smollm2-135m-l9-batchtopk-4096 --sample 4096 --queue
    """,
    params=EffectsParams,
    stages=lambda _params: (*PREPARATION, *EFFECTS),
    title=lambda params: (
        f"Effects of {len(params.features) if params.features else params.sample:,} features of {params.sae}"
    ),
    check=check,
    work=run_effects,
    result_order=("sae", "features", "used", "held_out_tokens", "median_ratio", "seconds_per_feature"),
    next_step=lambda result: f"See them on the site, under /saes/{result['sae']}/features?sort=effect.",
)
