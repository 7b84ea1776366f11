"""Run a text or a conversation through several SAEs of one model, in one forward pass."""

import json
from collections.abc import Sequence

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from app.inference.answers import load_distributions, probe_answer
from app.inference.dependencies import Engine, ModelLoads, Resident, Sessions, model_turn
from app.inference.engine import PromptActivations
from app.inference.model_thread import run_in_model_thread
from app.inference.ranking import ActivationDistributions
from app.services.inference_messages import PromptRequest, RankBy

router = APIRouter()


@router.post("/prompt")
async def prompt(
    request: PromptRequest, http: Request, sessions: Sessions, engine: Engine, residency: Resident, loads: ModelLoads
) -> Response:
    """Return the prompt as the model read it, and the activations of each SAE: a `PromptAnswer`."""
    for sae in request.saes:
        await loads.ensure(sae)
    async with model_turn(http) as turn:
        found = await run_in_model_thread(
            engine.probe_prompt, request.saes, request.text, request.chat, raise_if_gone=turn.raise_if_gone
        )
        turn.raise_if_gone()
        distributions = [
            await load_distributions(sessions, residency, sae, sparse.max_per_feature()[0])
            for sae, sparse in zip(request.saes, found.activations, strict=True)
        ]
    body = await run_in_threadpool(_written, found, distributions, request.rank_by)
    return Response(body, media_type="application/json")


def _written(found: PromptActivations, distributions: Sequence[ActivationDistributions | None], by: RankBy) -> bytes:
    answers = [
        probe_answer(sparse, *sparse.max_per_feature(), own, by)
        for sparse, own in zip(found.activations, distributions, strict=True)
    ]
    return json.dumps({"text": found.text, "roles": found.roles, "added": found.added, "answers": answers}).encode()
