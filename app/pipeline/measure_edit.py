"""Measure what a saved edit changes besides."""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from app.pipeline.stages import MEASUREMENT, PREPARATION
from app.runs.params import Option, Params
from app.runs.spec import Estimate, Result, RunSpec

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from app.runs.context import RunContext
    from app.runs.job_context import JobContext
    from app.settings import Settings


class MeasureEditParams(Params):
    """An edit, and how much is measured."""

    edit: Annotated[
        str,
        Option(argument=True, label="Edit"),
        Field(min_length=1, max_length=100, description="Name of the edit, as in its address."),
    ]
    corpus: Annotated[
        str | None,
        Option(path=True, default="that of the SAE", known="corpus"),
        Field(min_length=1, description="Text to measure on, as an index takes it."),
    ] = None
    text_column: Annotated[
        str, Option(rare=True), Field(min_length=1, description="Column of the corpus that holds the text.")
    ] = "text"
    held_out: Annotated[
        int, Field(ge=128, le=1_000_000, description="Held-out tokens to measure on; all where there are fewer.")
    ] = 4096
    controls: Annotated[
        int, Option(rare=True), Field(ge=1, le=20, description="Sets of random features to compare with.")
    ] = 3
    seed: Annotated[int, Option(rare=True), Field(ge=0, description="Of the controls and the intervals.")] = 0


async def check(session: "AsyncSession", settings: "Settings", params: MeasureEditParams) -> Estimate:
    """Refuse a measurement that cannot be made, and say how many tokens the model reads."""
    from app.pipeline.checks import check_edit

    return await check_edit(session, settings, params)


async def run_measure_edit(run: "RunContext", ctx: "JobContext", params: MeasureEditParams) -> Result:
    """Measure on held-out text, on unrelated prompts and on facts, and keep the result with the edit."""
    from app.pipeline.measured_edits import measure

    return await measure(run, ctx, params)


MEASURE_EDIT = RunSpec(
    kind="measure-edit",
    help="""Measure what a saved edit changes besides, beside the same for matched random features.

    On held-out text and on unrelated prompts: loss, KL, tokens gained and lost. For an edit of a fact: how often the
    fact holds, in other words too, and which neighbouring facts stay. The result is kept with the edit.
    A run that was stopped continues from where it was.

    Examples:
      seesae measure-edit paris-is-in-italy
      seesae measure-edit paris-is-in-italy --held-out 32768 --queue
    """,
    params=MeasureEditParams,
    stages=lambda _params: (*PREPARATION[:-1], *MEASUREMENT),
    title=lambda params: f"Side effects of the edit {params.edit}",
    check=check,
    work=run_measure_edit,
    result_order=("sae", "edit", "tokens", "kl", "kl_control", "ratio", "loss_rise"),
    leads_to=("See the edit", "/edits/{edit}"),
    next_step=lambda result: f"See them on the site, under /edits/{result['edit']}.",
)
