"""Evaluate an SAE on held-out sequences of a corpus."""

from dataclasses import asdict
from typing import Any

from app.jobs.context import RunContext
from app.jobs.params import EvaluateParams
from app.jobs.stages import evaluate_saes, model_of, open_sae, place_of, prepare
from app.jobs.workshop import Workshop
from app.queries import runs


async def run_evaluate(run: RunContext, shop: Workshop) -> dict[str, Any]:
    """Do a run of kind "evaluate"."""
    params = EvaluateParams.model_validate(run.params)
    sae, detail = await open_sae(shop, params.sae)
    async with shop.sessions.begin() as session:
        await runs.set_sae(session, run.run_id, detail.id)
    material = await prepare(run, shop, model_of(detail), place_of(detail), params)
    (evaluation,) = await evaluate_saes(run, shop, [(sae, detail)], material, predictions=params.predictions)
    return {"sae": detail.slug, "features": detail.d_sae, **asdict(evaluation)}
