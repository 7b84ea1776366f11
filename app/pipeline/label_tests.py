"""Let a model test labels of people blind, as another person would."""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from app.pipeline.params import SaeParams
from app.pipeline.stages import LABEL_TESTS
from app.runs.params import Option, Several
from app.runs.spec import Estimate, Result, RunSpec

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from app.runs.context import RunContext
    from app.runs.job_context import JobContext
    from app.settings import Settings


class LabelTestsParams(SaeParams):
    """Labels, and who tests them."""

    label_set: Annotated[str, Field(min_length=1, max_length=80, description="Name of their label set.")] = "default"
    labels: Annotated[
        Several[Annotated[int, Field(ge=1)]] | None,
        Option(default="all that this model has not tested"),
        Field(description="Ids of the labels to test instead, such as 3,14,15."),
    ] = None
    model: Annotated[
        str | None,
        Option(default="SEESAE_LLM_MODEL", rare=True),
        Field(min_length=1, max_length=200, description="Name of the model at the endpoint SEESAE_LLM_URL."),
    ] = None
    answer_tokens: Annotated[
        int,
        Option(rare=True),
        Field(ge=16, le=32_768, description="Most tokens of one answer; a model that reasons first needs thousands."),
    ] = 512
    seed: Annotated[int, Option(rare=True), Field(ge=0, description="Another seed draws other texts.")] = 0


async def check(session: "AsyncSession", settings: "Settings", params: LabelTestsParams) -> Estimate:
    """Refuse what cannot be tested, and estimate requests, tokens and money."""
    from app.pipeline.labels_tested import estimate

    return await estimate(session, settings, params)


async def run_test_labels(run: "RunContext", ctx: "JobContext", params: LabelTestsParams) -> Result:
    """Test each label, and keep each result as it comes."""
    from app.pipeline.labels_tested import test_labels

    return await test_labels(run, ctx, params)


TEST_LABELS = RunSpec(
    kind="test-labels",
    help="""Let a model test labels of people blind: from the label alone, it says where the feature is active.

    Each label gets a test of detection and one of fuzzing on held-out text, with the score of the model beside its
    floor: what the label of a random other feature scores on the same text. An answer is paid for once.

    Examples:
      seesae test-labels smollm2-135m-l9-batchtopk-4096
      seesae test-labels smollm2-135m-l9-batchtopk-4096 --label-set pilot --labels 3,14
    """,
    params=LabelTestsParams,
    stages=lambda _params: LABEL_TESTS,
    title=lambda params: f"Blind tests of labels of {params.sae} by a model",
    check=check,
    work=run_test_labels,
    result_order=(
        "sae",
        "model",
        "labels",
        "tested",
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
    leads_to=("See the labels", "/saes/{sae}/features?label=labelled"),
    next_step=lambda result: f"See each score beside its label, under /saes/{result['sae']}/features?label=labelled.",
    takes_device=False,
)
