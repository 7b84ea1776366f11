"""Evaluate an SAE on held-out sequences of a corpus."""

from dataclasses import asdict
from typing import Any

from app.pipeline.steps import evaluate_saes, model_of, open_sae, place_of, prepare
from app.queries import runs
from app.runs.context import RunContext
from app.runs.job_context import Workshop
from app.runs.params import EvaluateParams


async def run_evaluate(run: RunContext, shop: Workshop) -> dict[str, Any]:
    """Do a run of kind "evaluate"."""
    params = EvaluateParams.model_validate(run.params)
    sae, detail = await open_sae(shop, params.sae)
    async with shop.sessions.begin() as session:
        await runs.set_sae(session, run.run_id, detail.id)
    material = await prepare(run, shop, model_of(detail), place_of(detail), params)
    (evaluation,) = await evaluate_saes(run, shop, [(sae, detail)], material, predictions=params.predictions)
    return {"sae": detail.slug, "features": detail.d_sae, **asdict(evaluation)}
