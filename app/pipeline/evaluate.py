"""Evaluate an SAE on held-out sequences of a corpus."""

from dataclasses import asdict
from typing import Any

from app.pipeline.steps import evaluate_saes, hooks_of, model_of, open_sae, prepare
from app.queries import runs
from app.runs.context import RunContext
from app.runs.job_context import JobContext
from app.runs.params import EvaluateParams


async def run_evaluate(run: RunContext, ctx: JobContext) -> dict[str, Any]:
    """Do a run of kind "evaluate"."""
    params = EvaluateParams.model_validate(run.params)
    sae, detail = await open_sae(ctx, params.sae)
    async with ctx.sessions.begin() as session:
        await runs.set_sae(session, run.run_id, detail.id)
    inputs = await prepare(run, ctx, model_of(detail), hooks_of(detail), params)
    (evaluation,) = await evaluate_saes(run, ctx, [(sae, detail)], inputs, predictions=params.predictions)
    return {"sae": detail.slug, "features": detail.d_sae, **asdict(evaluation)}
