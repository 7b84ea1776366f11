"""Measure what features do to the model's predictions."""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from app.pipeline.params import DEMO_CORPUS, CorpusParams, IndexedCorpusParams, SaeParams
from app.pipeline.stages import EFFECTS, PREPARATION
from app.runs.params import Option, Several
from app.runs.spec import Estimate, Result, RunSpec

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from app.queries.saes import SaeDetail
    from app.runs.context import RunContext
    from app.runs.job_context import JobContext
    from app.settings import Settings


class EffectsParams(IndexedCorpusParams, SaeParams):
    """Features, and how much is measured for each."""

    corpus: Annotated[
        str | None,
        Option(path=True, known="corpus", default="the text that it was trained on", rare=True),
        Field(
            min_length=1,
            description="Text to measure on, as for seesae index. By default the text that the SAE was trained on, cut "
            "as it was then: its sequences were held out, and its activations may still be on disk. An SAE that was "
            "trained elsewhere is measured on the text of its index.",
        ),
    ] = None  # type: ignore[assignment]  # `known_text` names one
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


async def known_text(session: "AsyncSession", sae: "SaeDetail", params: EffectsParams) -> EffectsParams:
    """Name the text where none is named: that of the SAE's training, else of its newest index, else the demo's.

    Sequences that were held out from training are held out only if the text is the same, cut in the same way.
    """
    from app.queries.runs import get_run, newest_run

    if params.corpus is not None:
        return params
    trained = sae.config.get("run")
    run = await get_run(session, trained) if isinstance(trained, int) else None
    run = run or await newest_run(session, sae.id, "index")
    own = {} if run is None else {name: run.params[name] for name in CorpusParams.model_fields if name in run.params}
    given = {name: value for name in ("tokens", "length") if (value := getattr(params, name)) is not None}
    return params.model_copy(update={"corpus": DEMO_CORPUS, **own, **given})


async def check(session: "AsyncSession", settings: "Settings", params: EffectsParams) -> Estimate:
    """Refuse a measurement that cannot be made, and say how long it will take."""
    from app.pipeline.checks import check_effects
    from app.services.saes import find_sae

    params = await known_text(session, await find_sae(session, params.sae), params)
    return await check_effects(session, settings, params)


async def run_effects(run: "RunContext", ctx: "JobContext", params: EffectsParams) -> Result:
    """Prepare the activations, measure shard by shard, and publish all effects at once."""
    from app.pipeline.measured_effects import measure
    from app.pipeline.prepared_inputs import prepare_registered
    from app.pipeline.registered import open_sae_of_run

    sae, detail = await open_sae_of_run(run, ctx, params.sae)
    async with ctx.sessions() as session:
        params = await known_text(session, detail, params)
    (inputs,) = await prepare_registered(run, ctx, [(sae, detail)], params)
    return await measure(run, ctx, sae, detail, inputs, params)


EFFECTS_RUN = RunSpec(
    kind="effects",
    help="""Measure what features do: ablate each where it is active, against random features of equal mass.

    The most frequent features come first. The text is what was held out from the SAE's training. A run that was
    stopped continues from where it was.

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
    leads_to=("See the effects", "/saes/{sae}/features?sort=effect"),
    next_step=lambda result: f"See them on the site, under /saes/{result['sae']}/features?sort=effect.",
)
