"""Compare two SAEs of one model, feature by feature."""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from app.runs.params import Option, Params
from app.runs.spec import Estimate, Result, RunSpec, StageSpec

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from app.runs.context import RunContext
    from app.runs.job_context import JobContext
    from app.settings import Settings


class CompareParams(Params):
    """The two SAEs."""

    a: Annotated[
        str,
        Option(argument=True, metavar="SAE", label="SAE", known="sae"),
        Field(description="Slug of the SAE, such as smollm2-135m-l9-batchtopk-4096."),
    ]
    b: Annotated[
        str,
        Option(argument=True, metavar="OTHER", label="Other SAE", known="sae"),
        Field(description="Slug of another SAE of the same model."),
    ]


async def check(session: "AsyncSession", settings: "Settings", params: CompareParams) -> Estimate:
    """Refuse a comparison that cannot be made, before the work."""
    from app.pipeline.checks import check_comparison

    return await check_comparison(session, settings, params)


async def run_compare(run: "RunContext", ctx: "JobContext", params: CompareParams) -> Result:
    """Compare the two."""
    from app.pipeline.comparison import compare_saes

    return await compare_saes(run, ctx, params.a, params.b)


COMPARE = RunSpec(
    kind="compare",
    help="""Match the features of two SAEs of one model, by decoder direction and by activity on the same text.

    The site then shows which features both have, which only one has, and which features of the one are split into
    parts by the other, as a wider SAE does. `seesae index` and `seesae demo` do it automatically for SAEs that are
    indexed on the same text; for others, directions alone are compared. Interrupted, the same command starts again: it
    takes seconds to minutes.

    Example: seesae compare smollm2-135m-l9-batchtopk-1024 smollm2-135m-l9-batchtopk-4096
    """,
    params=CompareParams,
    stages=lambda _params: (StageSpec("compare", "Compare the features of both", unit="features"),),
    title=lambda params: f"Compare {params.a} with {params.b}",
    check=check,
    work=run_compare,
    result_order=("sae", "other", "features", "features_of_other", "tokens"),
    leads_to=("See the comparison", "/compare?a={sae}&b={other}"),
    takes_device=False,
)
