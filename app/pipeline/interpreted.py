"""Automatic interpretability of an SAE: a model labels some of its features, and from the labels says where they fire.

The work is that of `suggest`: what it writes are suggestions, on the pages of their features.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sqlalchemy.ext.asyncio import AsyncSession

from app.errors import Unprocessable
from app.pipeline.model_tester import KINDS, open_store
from app.pipeline.suggest import SuggestParams
from app.pipeline.suggesting import estimate, suggest
from app.queries import saes
from app.queries.saes import SaeDetail
from app.queries.suggestions import live_features
from app.runs.context import RunContext
from app.runs.job_context import JobContext
from app.runs.spec import Estimate
from app.services import llm
from app.settings import Settings

LEAST = 2
"""Features, because the floor is what the label of another feature scores."""


async def interpretability_cost(
    session: AsyncSession, settings: Settings, sae: SaeDetail, count: int, seed: int
) -> Estimate:
    """Return what it costs at most.

    Raises:
        Unprocessable: no model is set, or the SAE has no index, or too few live features.
    """
    if settings.llm_url is None:
        raise Unprocessable(
            "Interpreting features needs a model that labels them. Set SEESAE_LLM_URL and SEESAE_LLM_MODEL to an "
            "OpenAI-compatible endpoint."
        )
    llm.model_name(settings)
    _, features = await _sample(session, sae, count, seed)
    return await estimate(session, settings, _params(sae, seed), features)


async def interpret_sae(run: RunContext, ctx: JobContext, sae: SaeDetail, count: int, seed: int) -> dict[str, Any]:
    """Let the model of the settings label and test features drawn at random, and keep what the labels score.

    Args:
        run: with the stages `SUGGESTION`.
        ctx: whose settings name the model.
        sae: with an index, whose store is on this machine.
        count: features to draw among those that are active on some token of the index; all where there are fewer.
        seed: of the draw, and of the texts.

    Returns:
        The balanced accuracy of detection and of fuzzing, each with its interval over features, its floor, and the
        paired difference. A feature whose label could not be made or tested is in none of them; both are counted.

    Raises:
        Unavailable: the activations of the index are not on this machine.
        EndpointUnusable: the endpoint refuses the key or the model, or does not answer any more.
    """
    async with ctx.sessions() as session:
        live, features = await _sample(session, sae, count, seed)
    await open_store(run, ctx, sae)  # before the labels are paid for
    made = await suggest(run, ctx, _params(sae, seed), features)
    scores = {name: value for name, value in made.items() if name.startswith(KINDS)}
    found = {
        "model": made["model"],
        "seed": seed,
        "live": live,
        "features": len(features),
        "suggested": made["suggested"],
        **scores,
    }
    if scores:
        async with ctx.sessions.begin() as session:
            await saes.set_metrics(session, sae.id, {"interpretability": found})
    return found | {"notes": made.get("notes", [])}


async def _sample(session: AsyncSession, sae: SaeDetail, count: int, seed: int) -> tuple[int, Sequence[int]]:
    """Return the number of live features, and those that the seed draws."""
    if sae.index is None:
        raise Unprocessable(f"{sae.slug} has no index, so there are no examples to label from: run seesae index.")
    live = await live_features(session, sae)
    if len(live) < LEAST:
        raise Unprocessable(f"{sae.slug} has {len(live)} live features, and interpreting takes {LEAST} at least.")
    drawn = np.random.default_rng(seed).choice(live, min(count, len(live)), replace=False)
    return len(live), sorted(drawn.tolist())


def _params(sae: SaeDetail, seed: int) -> SuggestParams:
    return SuggestParams(sae=sae.slug, source="model", seed=seed)
