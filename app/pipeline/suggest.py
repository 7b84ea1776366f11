"""Suggest labels of features, by a model or from statistics."""

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from app.pipeline.params import SaeParams
from app.pipeline.stages import SUGGESTION
from app.runs.params import Option, Several
from app.runs.spec import Estimate, Result, RunSpec

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from app.runs.context import RunContext
    from app.runs.job_context import JobContext
    from app.settings import Settings


class SuggestParams(SaeParams):
    """Features, and who suggests."""

    sample: Annotated[
        int,
        Field(
            ge=1,
            le=100_000,
            description="Features to suggest labels of: those that have no label and are not dense, the most frequent "
            "first; all where there are fewer.",
        ),
    ] = 64
    features: Annotated[
        Several[Annotated[int, Field(ge=0)]] | None,
        Option(default="those without a label"),
        Field(description="Numbers of the features instead, such as 3,14,15."),
    ] = None
    source: Annotated[
        Literal["model", "statistics"] | None,
        Option(default="a model if SEESAE_LLM_URL is set, else statistics"),
        Field(
            description="Who suggests: a model at the endpoint SEESAE_LLM_URL, or a plain sentence from top tokens, "
            "promoted tokens and topics, which needs neither."
        ),
    ] = None
    model: Annotated[
        str | None,
        Option(default="SEESAE_LLM_MODEL", rare=True),
        Field(min_length=1, max_length=200, description="Name of the model at the endpoint."),
    ] = None
    estimate: Annotated[
        bool,
        Option(rare=True),
        Field(description="Only estimate what it costs: nothing is asked, and nothing is written."),
    ] = False
    score: Annotated[
        bool,
        Option(flags="--score/--no-score"),
        Field(
            description="Let the model test each suggestion on held-out text, by detection and fuzzing, beside the "
            "suggestion of another feature: four more requests per feature."
        ),
    ] = True
    answer_tokens: Annotated[
        int,
        Option(rare=True),
        Field(ge=16, le=32_768, description="Most tokens of one answer; a model that reasons first needs thousands."),
    ] = 512
    seed: Annotated[
        int, Option(rare=True), Field(ge=0, description="Another seed asks again what was answered before.")
    ] = 0


async def check(session: "AsyncSession", settings: "Settings", params: SuggestParams) -> Estimate:
    """Refuse what cannot be asked, and estimate requests, tokens and money."""
    from app.pipeline.suggesting import estimate

    return await estimate(session, settings, params)


async def run_suggest(run: "RunContext", ctx: "JobContext", params: SuggestParams) -> Result:
    """Ask for each feature, and write each suggestion as it comes."""
    from app.pipeline.suggesting import suggest

    return await suggest(run, ctx, params)


def _next_step(result: Result) -> str | None:
    return None if "estimate" in result else f"See them on the site, under /saes/{result['sae']}/features."


def _title(params: SuggestParams) -> str:
    features = len(params.features) if params.features else params.sample
    return (
        f"{'Estimate of suggestions' if params.estimate else 'Suggestions'} for {features:,} features of {params.sae}"
    )


SUGGEST = RunSpec(
    kind="suggest",
    help="""Suggest labels of features: by a model of any OpenAI-compatible endpoint, or from statistics.

    A model reads examples from the whole range of each feature, with active tokens marked, and the tokens that the
    feature promotes. Then it gets each suggestion alone, and says in which held-out texts the feature is active
    (detection), and where in them (fuzzing). Suggestions stand apart and are never counted as labels of people. An
    answer is paid for once: a run that was stopped, or is repeated, takes what was answered before.

    Examples:
      seesae suggest smollm2-135m-l9-batchtopk-4096 --estimate
      seesae suggest smollm2-135m-l9-batchtopk-4096 --sample 256
      seesae suggest smollm2-135m-l9-batchtopk-4096 --features 3,14,15 --source statistics
    """,
    params=SuggestParams,
    stages=lambda params: SUGGESTION if params.score and not params.estimate else SUGGESTION[:1],
    title=_title,
    check=check,
    work=run_suggest,
    result_order=(
        "sae",
        "source",
        "model",
        "features",
        "suggested",
        "failed",
        "requests",
        "from_cache",
        "detection",
        "detection_interval",
        "detection_floor",
        "fuzzing",
        "fuzzing_interval",
        "fuzzing_floor",
        "tokens_in",
        "tokens_out",
        "dollars",
    ),
    next_step=_next_step,
    takes_device=False,
)
