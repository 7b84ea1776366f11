"""Index an SAE: the statistics of all its features over a corpus, published as a whole."""

from typing import Any

from app.pipeline.compare import compare_with_others
from app.pipeline.steps import hooks_of, index_sae, model_of, open_sae, prepare
from app.queries import runs
from app.runs.context import RunContext
from app.runs.job_context import JobContext
from app.runs.params import IndexParams
from sae_core.statistics.types import FeatureStatistics


def dead_fraction(statistics: FeatureStatistics) -> float:
    """Share of features that are active on none of the indexed tokens."""
    return float((statistics.count == 0).mean())


async def run_index(run: RunContext, ctx: JobContext) -> dict[str, Any]:
    """Do a run of kind "index"."""
    params = IndexParams.model_validate(run.params)
    sae, detail = await open_sae(ctx, params.sae)
    async with ctx.sessions.begin() as session:
        await runs.set_sae(session, run.run_id, detail.id)
    inputs = await prepare(run, ctx, model_of(detail), hooks_of(detail), params)
    statistics = await index_sae(run, ctx, sae, detail, inputs)
    await compare_with_others(run, ctx, detail)
    return {
        "sae": detail.slug,
        "features": detail.d_sae,
        "tokens": statistics.tokens,
        "l0": float(statistics.count.sum() / statistics.tokens),
        "dead_fraction": dead_fraction(statistics),
    }
