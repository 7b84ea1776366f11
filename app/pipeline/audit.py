"""Audit a model for bias on pairs of texts."""

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from app.pipeline.params import SaeParams
from app.pipeline.stages import AUDITING, PREPARATION
from app.runs.params import Option, Several
from app.runs.spec import Estimate, Result, RunSpec

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from app.runs.context import RunContext
    from app.runs.job_context import JobContext
    from app.settings import Settings


class AuditParams(SaeParams):
    """An SAE, pairs of texts, and how much is measured."""

    on: Annotated[
        str,
        Option(path=True, label="Text set"),
        Field(
            min_length=1,
            max_length=1000,
            description="crows-pairs, winobias, stereoset or bbq, which are fetched when they are first used; a text "
            "set with pairs or groups; or a file of one.",
        ),
    ]
    features: Annotated[
        Several[Annotated[int, Field(ge=0)]] | None,
        Option(default="those that differ most between the sides"),
        Field(description="Numbers of the features to ablate, such as 3,14,15."),
    ] = None
    pairs: Annotated[
        int | None, Option(default="all"), Field(ge=10, le=100_000, description="Most pairs to measure.")
    ] = None
    top: Annotated[int, Option(rare=True), Field(ge=1, le=64, description="Most features to choose and ablate.")] = 10
    controls: Annotated[
        int, Option(rare=True), Field(ge=1, le=20, description="Sets of random features to compare with.")
    ] = 3
    classifier: Annotated[
        bool,
        Option(flags="--classifier/--no-classifier", rare=True),
        Field(
            description="Also train a classifier of professions on biographies in which profession and gender go "
            "together."
        ),
    ] = True
    corpus: Annotated[
        str | None,
        Option(path=True, default="that of the SAE", known="corpus", rare=True),
        Field(min_length=1, description="Unrelated text, on which costs are measured, as an index takes it."),
    ] = None
    text_column: Annotated[
        str, Option(rare=True), Field(min_length=1, description="Column of the corpus that holds the text.")
    ] = "text"
    held_out: Annotated[
        int,
        Option(rare=True),
        Field(
            ge=128, le=1_000_000, description="Held-out tokens of it to measure costs on; all where there are fewer."
        ),
    ] = 4096
    seed: Annotated[int, Option(rare=True), Field(ge=0, description="Of the controls and the intervals.")] = 0


async def check(session: "AsyncSession", settings: "Settings", params: AuditParams) -> Estimate:
    """Refuse an audit that cannot be made, and say about how many tokens the model reads."""
    from app.pipeline.checks import check_audit

    return await check_audit(session, settings, params)


async def run_audit(run: "RunContext", ctx: "JobContext", params: AuditParams) -> Result:
    """Measure the model, find features, change them beside controls, and store what was found."""
    from app.pipeline.audited import audit

    return await audit(run, ctx, params)


AUDIT = RunSpec(
    kind="audit",
    help="""Audit a model for bias: how it treats the sides of pairs, which features differ, what ablating them does.

    The model's own measure comes first, with an interval: in how many pairs it prefers the stereotype. Features are
    chosen on one half of the pairs. On the other half they are ablated, beside random features of equal mass, the
    difference of means projected out, and the words deleted in which the sides differ; and beside what each costs.
    A run that was stopped continues from where it was.

    Examples:
      seesae audit smollm2-135m-l9-batchtopk-4096 --on crows-pairs
      seesae audit smollm2-135m-l9-batchtopk-4096 --on winobias --features 3,14,15
      seesae audit smollm2-135m-l9-batchtopk-4096 --on pairs.jsonl --pairs 200 --queue
    """,
    params=AuditParams,
    stages=lambda _params: (*PREPARATION[:-1], *AUDITING),
    title=lambda params: f"Audit of {params.sae} on {params.on.rpartition('/')[2]}",
    check=check,
    work=run_audit,
    result_order=(
        "audit",
        "sae",
        "on",
        "measure",
        "score",
        "interval",
        "pairs",
        "features",
        "ablated",
        "change",
        "change_interval",
        "score_after",
        "controls",
        "loss_rise",
        "kl",
        "facts_change",
    ),
    leads_to=("See the audit", "/audits/{audit}"),
    next_step=lambda result: f"See it on the site, under /audits/{result['audit']}.",
)
