"""Index an SAE: the statistics of all its features over a corpus, published as a whole."""

from typing import TYPE_CHECKING

from app.paths import without_folder
from app.pipeline.params import CorpusName, IndexedCorpusParams, SaesParams
from app.pipeline.stages import COMPARISON, INDEXING, PREPARATION
from app.runs.spec import Estimate, Result, RunSpec

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from app.runs.context import RunContext
    from app.runs.job_context import JobContext
    from app.settings import Settings

_USUAL_L0 = 64.0
"""Active features per token of an SAE that was never evaluated, to foresee how long its index takes."""


class IndexParams(IndexedCorpusParams, SaesParams):
    """SAEs of one model, and the text that their features' statistics are computed on."""

    corpus_name: CorpusName = None


async def check(session: "AsyncSession", settings: "Settings", params: IndexParams) -> Estimate:
    """Refuse an index that cannot be made, before the work."""
    from app.pipeline.checks import check_indexing

    return await check_indexing(session, settings, params, params.sae)


async def run_index(run: "RunContext", ctx: "JobContext", params: IndexParams) -> Result:
    """Prepare the activations of all SAEs; index each, and compare it with the other SAEs of the same text."""
    from app.pipeline import steps
    from app.pipeline.comparison import compare_with_others
    from app.pipeline.forecast import Work
    from app.pipeline.prepared_inputs import prepare_registered
    from app.pipeline.registered import open_saes_of_run

    readers = await open_saes_of_run(run, ctx, params.sae)
    sae, detail = readers[0]
    work = Work(indexed=(sae.d_sae, detail.metrics.get("l0") or _USUAL_L0)) if len(readers) == 1 else None
    inputs = await prepare_registered(run, ctx, readers, params, corpus_name=params.corpus_name, work=work)
    results = []
    for (sae, detail), own in zip(readers, inputs, strict=True):
        with run.about(detail.slug if len(readers) > 1 else "", (*INDEXING, *COMPARISON)):
            statistics = await steps.index_sae(run, ctx, sae, detail, own)
            await compare_with_others(run, ctx, detail)
        results.append(
            {
                "sae": detail.slug,
                "features": detail.d_sae,
                "tokens": statistics.tokens,
                "l0": float(statistics["count"].sum() / statistics.tokens),
                "dead_fraction": steps.dead_fraction(statistics),
                **steps.index_notes(statistics),
            }
        )
    return results[0] if len(results) == 1 else {"saes": results}


INDEX = RunSpec(
    kind="index",
    help="""Compute the statistics of all features of an SAE over a corpus, and publish them.

    The site shows the previous index until the new one is complete. Interrupted, the same command continues.

    Several SAEs of one model share its forward pass.

    Examples:
      seesae index smollm2-135m-l9-batchtopk-4096 --corpus texts.jsonl
      seesae index my-sae-l6 my-sae-l9
    """,
    params=IndexParams,
    stages=lambda _params: (*PREPARATION, *INDEXING, *COMPARISON),
    title=lambda params: f"Index {', '.join(params.sae)} on {without_folder(params.corpus)}",
    check=check,
    work=run_index,
    result_order=("sae", "features", "tokens", "l0", "dead_fraction"),
)
