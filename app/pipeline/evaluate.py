"""Evaluate an SAE on held-out sequences of a corpus."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from app.paths import without_folder
from app.pipeline.params import SaeParams, TextOfSaeParams
from app.pipeline.stages import ABSORPTION, EVALUATION, PREPARATION, PROBING, SUGGESTION
from app.runs.params import Option, Several
from app.runs.spec import Estimate, Result, RunSpec
from app.services.absorption import absorption_verdict, read_absorption
from app.services.interpretability import interpretability_verdict, read_interpretability
from app.services.probing import Probing, named_sets, verdict

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from app.runs.context import RunContext
    from app.runs.job_context import JobContext
    from app.settings import Settings


class EvaluateParams(TextOfSaeParams, SaeParams):
    """An SAE and the text that it is measured on."""

    predictions: Annotated[
        int,
        Option(rare=True),
        Field(ge=1, description="Next-token predictions to measure the model's losses on, by four full passes."),
    ] = 4096
    probing: Annotated[
        Several[Annotated[str, Field(min_length=1, max_length=100)]] | None,
        Option(default="none"),
        Field(
            description="Text sets with labels, such as imdb,languages, on which k-sparse probes are compared with "
            "random dictionaries and the activations themselves; “builtin” for the five that come with SeeSAE."
        ),
    ] = None
    interpret: Annotated[
        int | None,
        Option(default="none"),
        Field(
            ge=2,
            le=10_000,
            description="Live features, drawn at random, that the model at SEESAE_LLM_URL labels; then it says from "
            "each label alone in which held-out texts the feature is active, beside the label of another feature: "
            "five requests per feature.",
        ),
    ] = None
    seed: Annotated[int, Option(rare=True), Field(ge=0, description="Of the features that are labelled.")] = 0
    absorption: Annotated[
        bool,
        Option(flags="--absorption/--no-absorption"),
        Field(
            description="Ask the model for the first letters of words and, if it can spell, measure how much of them "
            "other features absorb; it takes a model of about a billion parameters."
        ),
    ] = False


async def check(session: "AsyncSession", settings: "Settings", params: EvaluateParams) -> Estimate:
    """Refuse an evaluation that cannot be made, before the work."""
    from app.pipeline.checks import check_evaluation

    return await check_evaluation(session, settings, params)


async def run_evaluate(run: "RunContext", ctx: "JobContext", params: EvaluateParams) -> Result:
    """Prepare the activations, measure the SAE on them, probe texts if asked, and keep the figures with it."""
    from app.pipeline.checks import text_of_sae
    from app.pipeline.prepared_inputs import prepare_registered
    from app.pipeline.registered import open_sae_of_run
    from app.pipeline.steps import evaluate_saes

    sae, detail = await open_sae_of_run(run, ctx, params.sae)
    async with ctx.sessions() as session:
        text = await text_of_sae(session, [detail], params)
    (inputs,) = await prepare_registered(run, ctx, [(sae, detail)], text)
    (evaluation,) = await evaluate_saes(run, ctx, [(sae, detail)], inputs, predictions=params.predictions)
    result = {"sae": detail.slug, "features": detail.d_sae, **asdict(evaluation)}
    said: list[str] = []
    if params.probing is not None:
        from app.pipeline.probed import probe_sae

        found = await probe_sae(run, ctx, sae, detail, inputs, named_sets(params.probing), active=evaluation.l0)
        said += verdict(Probing.model_validate(found))
        result["probing"] = found["sets"]
    if params.absorption:
        from app.pipeline.absorbed import absorb_sae

        absorbed = await absorb_sae(run, ctx, sae, detail, inputs, active=evaluation.l0)
        said += absorption_verdict(read_absorption({"absorption": absorbed}))
        result["absorption"] = absorbed
    if params.interpret is not None:
        from app.pipeline.interpreted import interpret_sae

        labelled = await interpret_sae(run, ctx, detail, params.interpret, params.seed)
        said += interpretability_verdict(read_interpretability({"interpretability": labelled}))
        result["interpretability"] = {name: value for name, value in labelled.items() if name != "notes"}
        if labelled["notes"]:
            result["notes"] = labelled["notes"]
    return result | ({"verdict": " ".join(said)} if said else {})


EVALUATE = RunSpec(
    kind="evaluate",
    help="""Measure an SAE on held-out text: explained variance, L0, loss recovered and more, with 95 % intervals.

    Without a corpus it is the text of the SAE's index, whose activations are not computed again where they are kept.
    Probing says what an SAE is good for: how well one, two and five features tell topics, languages, sentiment,
    toxicity and professions, beside random dictionaries, single channels and all of the activations. Interpreting says
    how well a model's labels of its features predict where they are active, beside the labels of other features.

    Examples:
      seesae evaluate smollm2-135m-l9-batchtopk-4096
      seesae evaluate smollm2-135m-l9-batchtopk-4096 --corpus other.jsonl --json
      seesae evaluate smollm2-135m-l9-batchtopk-4096 --probing builtin
      seesae evaluate smollm2-135m-l9-batchtopk-4096 --interpret 64
    """,
    params=EvaluateParams,
    stages=lambda params: (
        *PREPARATION,
        *EVALUATION,
        *(PROBING if params.probing is not None else ()),
        *(ABSORPTION if params.absorption else ()),
        *(SUGGESTION if params.interpret is not None else ()),
    ),
    title=lambda params: f"Evaluate {params.sae}" + (f" on {without_folder(params.corpus)}" if params.corpus else ""),
    check=check,
    work=run_evaluate,
    result_order=("sae", "features", "tokens", "explained_variance", "l0", "dead_fraction", "verdict"),
)
