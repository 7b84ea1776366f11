"""Index an SAE: the statistics of all its features over a corpus, published as a whole."""

from typing import Any

from app.pipeline.compare import compare_with_others
from app.pipeline.steps import index_sae, model_of, open_sae, place_of, prepare
from app.queries import runs
from app.runs.context import RunContext
from app.runs.job_context import Workshop
from app.runs.params import IndexParams
from sae_core.statistics.types import FeatureStatistics


def dead_fraction(statistics: FeatureStatistics) -> float:
    """Share of features that are active on none of the indexed tokens."""
    return float((statistics.count == 0).mean())


async def run_index(run: RunContext, shop: Workshop) -> dict[str, Any]:
    """Do a run of kind "index"."""
    params = IndexParams.model_validate(run.params)
    sae, detail = await open_sae(shop, params.sae)
    async with shop.sessions.begin() as session:
        await runs.set_sae(session, run.run_id, detail.id)
    material = await prepare(run, shop, model_of(detail), place_of(detail), params)
    statistics = await index_sae(run, shop, sae, detail, material)
    await compare_with_others(run, shop, detail)
    return {
        "sae": detail.slug,
        "features": detail.d_sae,
        "tokens": statistics.tokens,
        "l0": float(statistics.count.sum() / statistics.tokens),
        "dead_fraction": dead_fraction(statistics),
    }
