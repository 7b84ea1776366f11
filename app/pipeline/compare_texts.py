"""Find what distinguishes two sides of texts."""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from app.pipeline.params import SaeParams
from app.pipeline.read_texts import MAX_TOKENS, MaxTokens
from app.pipeline.stages import CONTRAST, READING
from app.runs.params import Option
from app.runs.spec import Estimate, Result, RunSpec

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from app.runs.context import RunContext
    from app.runs.job_context import JobContext
    from app.settings import Settings


class CompareTextsParams(SaeParams):
    """An SAE, and two sides of texts."""

    a: Annotated[
        str,
        Option(argument=True, metavar="A", label="Side a"),
        Field(min_length=1, max_length=200, description="A text set, or the texts of one label of it as SET:LABEL."),
    ]
    b: Annotated[
        str,
        Option(argument=True, metavar="B", label="Side b"),
        Field(min_length=1, max_length=200, description="What to compare it with, in the same form."),
    ]
    max_tokens: MaxTokens = MAX_TOKENS


async def check(session: "AsyncSession", settings: "Settings", params: CompareTextsParams) -> Estimate:
    """Refuse sides that cannot be compared, before the model reads them."""
    from app.pipeline.checks import check_text_comparison

    return await check_text_comparison(session, params)


async def run_compare_texts(run: "RunContext", ctx: "JobContext", params: CompareTextsParams) -> Result:
    """Read what was not read before, and compare."""
    from app.pipeline.compared_texts import compare

    return await compare(run, ctx, params)


COMPARE_TEXTS = RunSpec(
    kind="compare-texts",
    help="""Find what distinguishes two sides of texts: which features, which words, and what only looks like it.

    Every feature is ranked by how well it tells the sides apart, on most of the texts, and shown with its AUROC on the
    rest, which no choice depended on. Beside it stand a bag of words, the length of texts, and classifiers on each.

    Examples:
      seesae compare-texts smollm2-135m-l9-batchtopk-4096 imdb:positive imdb:negative
      seesae compare-texts smollm2-135m-l9-batchtopk-4096 ours theirs --json
    """,
    params=CompareTextsParams,
    stages=lambda _params: (*READING, *CONTRAST),
    title=lambda params: f"Compare the texts of {params.a} with {params.b}",
    check=check,
    work=run_compare_texts,
    result_order=(
        "sae",
        "a",
        "b",
        "texts_a",
        "texts_b",
        "tested",
        "differ",
        "length_auroc",
        "best",
        "comparison",
        "page",
    ),
    leads_to=("See the comparison", "/saes/{sae}/compare-texts/{comparison}"),
    next_step=lambda result: f"See the features on the site, under {result['page']}.",
)
