"""Attribute an output token to features, and verify the strongest by ablation."""

import time

import numpy as np
import structlog
from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool

from app.inference import attribution
from app.inference.dependencies import Engine, ModelLoads, model_turn
from app.inference.model_thread import run_in_model_thread
from app.services.inference_messages import AttributeAnswer, AttributeRequest

log = structlog.get_logger("inference")

router = APIRouter()


@router.post("/attribute")
async def attribute(request: AttributeRequest, http: Request, engine: Engine, loads: ModelLoads) -> AttributeAnswer:
    """Return the contributions to an output token. Each batch of ablations is a turn, so that others go between."""
    started = time.perf_counter()
    engine.require_gradients("Attribution")
    for sae in request.saes:
        await loads.ensure(sae)
    async with model_turn(http) as turn:
        estimated = await run_in_model_thread(attribution.estimate, engine, request, turn.raise_if_gone)
    changes = []
    for part in attribution.batches(estimated, request.verify):
        async with model_turn(http):
            changes.append(await run_in_model_thread(attribution.verified, engine, request, estimated, part))
    seconds = time.perf_counter() - started
    log.info("attribute", saes=len(request.saes), tokens=len(estimated.token_ids), ms=round(1000 * seconds, 1))
    return await run_in_threadpool(attribution.answer, estimated, np.concatenate([np.zeros(0), *changes]))
